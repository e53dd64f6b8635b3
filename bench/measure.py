"""How works are timed: in turns, and as records that the suite collects."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def now(device: torch.device) -> float:
    """Seconds, after all that the device was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call."""
    begin = now(device)
    work()
    return now(device) - begin


def take_turns(works: Sequence[Callable[[], object]], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of each work in each round. Every other round goes backwards; one more, first, is not counted."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        order = range(len(works)) if number % 2 else reversed(range(len(works)))
        for i in order:
            taken = seconds(works[i], device)
            if number:
                times[i].append(taken)
    return times


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
