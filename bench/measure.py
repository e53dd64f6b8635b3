"""Time functions in turns, and make the records that the suite collects."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gendd.data.batch import Batch

Clock = Callable[[], float]
Result = TypeVar("Result")


def wall_clock() -> float:
    """Return seconds, after the GPU has finished all work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], clock: Clock = wall_clock) -> float:
    """Return the time of one call."""
    begin = clock()
    work()
    return clock() - begin


def take_turns(works: Sequence[Callable[[], object]], rounds: int, clock: Clock = wall_clock) -> list[list[float]]:
    """Return the seconds of each function in each round, after an uncounted round.

    Every other round runs in reverse order. For a single thread on a busy machine, `time.process_time` is the better
    clock.
    """
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        order = range(len(works)) if number % 2 else reversed(range(len(works)))
        for i in order:
            taken = seconds(works[i], clock)
            if number:
                times[i].append(taken)
    return times


class Counted(TorchDispatchMode):
    """Counter of the operators that PyTorch dispatches.

    Attributes:
        total: of all operators, forward and backward. A `foreach` operator is one, whatever the number of its tensors.
        working: without views, detached copies and empty tensors, which start nothing on a GPU.
    """

    def __init__(self):
        super().__init__()
        self.total, self.working = 0, 0

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        self.total += 1
        name = operator.overloadpacket.__name__
        self.working += not (operator.is_view or name == "detach" or name.startswith("empty"))
        return operator(*arguments, **(keywords or {}))


def peak_memory(work: Callable[[], Result]) -> tuple[Result, int]:
    """Return the result of a call, and the peak bytes that the process (or the GPU) held meanwhile."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return work(), torch.cuda.max_memory_allocated()
    # On Linux, 5 resets the peak of the resident set.
    Path("/proc/self/clear_refs").write_text("5")
    result = work()
    status = Path("/proc/self/status").read_text()
    return result, 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def record(
    work: str,
    unit: str,
    reference: Sequence[float],
    ours: Sequence[float],
    ratios: Sequence[float],
    share_of_limit: float | None = None,
) -> dict:
    """Return one row of the suite's table.

    Args:
        unit: unit of both paths' values, such as "images/s".
        reference: the reference's value in each round; the record holds the median.
        ours: the project's value in each round; the record holds the median.
        ratios: how many times better the project is, in each round. The record holds the median as "ratio", minimum
            and maximum as "spread", and their number as "n".
        share_of_limit: the project's share of the machine's limit (`machine`). None if neither arithmetic nor memory
            limits the work.
    """
    return {
        "work": work,
        "unit": unit,
        "reference": statistics.median(reference),
        "ours": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "share_of_limit": share_of_limit,
        "n": len(ratios),
        "spread": [min(ratios), max(ratios)],
    }


@dataclass(frozen=True)
class Cached:
    """Teacher features of one batch in memory. Excludes the time to read them, a fraction of a millisecond."""

    feature: torch.Tensor

    def features(self, batch: Batch) -> torch.Tensor:
        return self.feature
