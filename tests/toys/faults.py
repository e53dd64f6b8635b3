"""Functions that fail as disks and networks do."""

from collections.abc import Callable, Iterable

STALE = OSError(116, "Stale file handle")


def failing(function: Callable, faults: Iterable[Exception]) -> Callable:
    """The function, whose first calls raise these instead."""
    left = list(faults)

    def call(*arguments, **options):
        if left:
            raise left.pop(0)
        return function(*arguments, **options)

    return call
