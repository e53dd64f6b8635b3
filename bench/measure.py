"""How works are timed: in turns, and as records that the suite collects."""

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from gendd.data.batch import Batch

Clock = Callable[[], float]
Result = TypeVar("Result")


def wall_clock() -> float:
    """Seconds, after all that a GPU was given is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[[], object], clock: Clock = wall_clock) -> float:
    """Time of one call."""
    begin = clock()
    work()
    return clock() - begin


def take_turns(works: Sequence[Callable[[], object]], rounds: int, clock: Clock = wall_clock) -> list[list[float]]:
    """Seconds of each work in each round. Every other round goes backwards; one more, first, is not counted.

    Where one thread works on a busy machine, `time.process_time` is the better clock.
    """
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        order = range(len(works)) if number % 2 else reversed(range(len(works)))
        for i in order:
            taken = seconds(works[i], clock)
            if number:
                times[i].append(taken)
    return times


def peak_memory(work: Callable[[], Result]) -> tuple[Result, int]:
    """The outcome of a call, and the most bytes that the process (or the GPU) held while it ran."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return work(), torch.cuda.max_memory_allocated()
    # Linux: 5 resets the peak of the resident set.
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
    """One line of the suite's table.

    Args:
        unit: of the values of both paths, such as "images/s".
        reference, ours: a value a round; the record holds their medians.
        ratios: how many times better ours is, a value a round; the record holds the median as "ratio", least and
            greatest as "spread", and their number as "n".
        share_of_limit: what ours achieves of what the machine can (`machine`), None where neither arithmetic nor
            memory bounds the work.
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
    """The features of one batch, at hand: reading them, a fraction of a millisecond, is left out."""

    feature: torch.Tensor

    def features(self, batch: Batch) -> torch.Tensor:
        return self.feature
