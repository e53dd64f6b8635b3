"""Functions that fail like disks and networks."""

from collections.abc import Callable, Iterable

STALE = OSError(116, "Stale file handle")


def failing(function: Callable, faults: Iterable[Exception]) -> Callable:
    """Return the function with first calls that raise these faults instead."""
    left = list(faults)

    def call(*arguments, **options):
        if left:
            raise left.pop(0)
        return function(*arguments, **options)

    return call
