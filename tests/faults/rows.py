"""The rows of the report: a promise, the number of its cases, and the broken ones."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """The result for one promise.

    Args:
        cases: number of cases.
        broken: one line per case that broke the promise.
        figure: a measured value that belongs to the promise.
    """

    promise: str
    cases: int
    seconds: float
    broken: list[str] = field(default_factory=list)
    figure: str = ""


def tested(promise: str, problems: Iterable[str], figure: str = "") -> Row:
    """Run the cases and return their row.

    Args:
        problems: runs a case per element, which is "" or the problem.
    """
    begin = time.monotonic()
    found = list(problems)
    return Row(promise, len(found), round(time.monotonic() - begin, 1), [one for one in found if one], figure)
