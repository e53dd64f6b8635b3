"""Groups of runs that differ only in their seed."""

import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from gendd.core.errors import UserError
from gendd.reporting.finished import FinishedRun

# Settings with a separate column, which the column of differing settings leaves out.
SHOWN = {"epochs", "earlier_epochs", "earlier epochs", "precision", "processes"}


Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def by(key: Callable[[Item], Key], items: Iterable[Item]) -> dict[Key, list[Item]]:
    """Group items by key; keys and items keep the order of the items."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


@dataclass(frozen=True)
class Group:
    """Runs with the same settings, ordered by seed, and the settings that differ from other runs of this name."""

    runs: tuple[FinishedRun, ...]
    differing: str = ""

    @property
    def first(self) -> FinishedRun:
        """The first run, to read what all runs share."""
        return self.runs[0]

    @property
    def label(self) -> str:
        return f"{self.first.name} ({self.differing})" if self.differing else self.first.name


def grouped(runs: Iterable[FinishedRun]) -> list[Group]:
    """Return the groups, in the order of the runs.

    Raises:
        UserError: two runs have the same settings and seed, so that a mean would count them twice.
    """
    groups = by(lambda run: json.dumps(run.settings, sort_keys=True), runs).values()
    for members in groups:
        members.sort(key=lambda run: run.seed)
        for run, other in pairwise(members):
            if run.seed == other.seed:
                raise UserError(
                    f"RUN {run.folder.path} {other.folder.path}: the runs have the same settings and the same seed "
                    f"{run.seed}; name one of them"
                )
    first = [members[0] for members in groups]
    return [Group(tuple(members), _differing(members[0], first)) for members in groups]


def by_data(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return the groups of each data set; accuracies are comparable within a data set."""
    return by(lambda group: group.first.comparable, groups)


def _differing(run: FinishedRun, others: list[FinishedRun]) -> str:
    """Describe the settings in which a run differs from other runs with its data and networks.

    Other runs are those with its name; for `dense_grid`, which adds a loss, they are the runs of all methods.
    """
    rivals = [other for other in others if _place(other) == _place(run)]
    alike = [other for other in rivals if other.name == run.name]
    names = sorted({name for other in alike for name in other.settings if name not in SHOWN})
    differing = [name for name in names if _values(name, rivals if name == "dense_grid" else alike) > 1]
    return ", ".join(f"{name.replace('_', ' ')} {_short(run.settings.get(name))}" for name in differing)


def _values(name: str, runs: list[FinishedRun]) -> int:
    """Count the different values of a setting. Methods that cannot have a dense term count as those without it."""
    return len({json.dumps(run.settings.get(name, 0 if name == "dense_grid" else None)) for run in runs})


def _place(run: FinishedRun) -> tuple:
    return run.comparable, run.student, run.teacher


def _short(value: object) -> str:
    """Format a value as on the command line; of a checksum, only the first digits."""
    words = value if isinstance(value, list) else [value]
    return " ".join(f"{word:g}" if isinstance(word, float) else str(word)[:24] for word in words)
