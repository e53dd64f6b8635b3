"""Groups of runs that differ only in their seed."""

import json
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, TypeVar

from gendd.core.errors import UserError
from gendd.reporting.finished import FinishedRun
from gendd.runs.folder import CHECKSUMS

# Settings with a separate column, which the column of differing settings leaves out.
SHOWN = {"epochs", "earlier_epochs", "earlier epochs", "precision", "processes", "unlabeled"}
# Settings that do not count as different between runs of different names. Some methods leave out training images
# without a label; all are evaluated on the same images.
NAMES = {"name", "method", "pretrain_name", "earlier name", "earlier method", "training files", "training contents"}
# Settings that turn added terms on, and their values without a term. Methods that cannot have a term count as without.
TERMS = {"dense_grid": 0, "probe_gradient": 0.0}


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
    """Runs with the same settings, ordered by seed.

    Attributes:
        differing: settings that differ from other runs of these data and networks; without those that have a column.
        apart: the fewest settings that distinguish the group from the others of its name and student.
    """

    runs: tuple[FinishedRun, ...]
    differing: str = ""
    apart: str = ""

    @property
    def first(self) -> FinishedRun:
        """The first run, to read what all runs share."""
        return self.runs[0]

    @property
    def label(self) -> str:
        """The name in pictures, which no other group of this student has."""
        return f"{self.first.name} ({self.apart})" if self.apart else self.first.name


def grouped(runs: Iterable[FinishedRun]) -> list[Group]:
    """Return the groups in the order of reports; groups of one method and length by the settings that differ.

    Raises:
        UserError: two runs have the same settings and seed, so that a mean would count them twice.
    """
    groups = list(by(_without_checksums, runs).values())
    for name in CHECKSUMS:
        groups = [part for members in groups for part in _of_same_data(members, name)]
    for members in groups:
        members.sort(key=lambda run: run.seed)
        for run, other in pairwise(members):
            if run.seed == other.seed:
                raise UserError(
                    f"RUN {run.folder.path} {other.folder.path}: the runs have the same settings and the same seed "
                    f"{run.seed}; name one of them"
                )
    first = [members[0] for members in groups]
    differing = {id(run): _differing(run, first) for run in first}
    order = {id(run): [_order(run.settings[name]) for name in differing[id(run)]] for run in first}
    found = [
        Group(tuple(members), _words(run, differing[id(run)]), _words(run, _apart(run, first)))
        for run, members in zip(first, groups, strict=True)
    ]
    return sorted(found, key=lambda group: (group.first.place, order[id(group.first)]))


def _without_checksums(run: FinishedRun) -> str:
    return json.dumps({name: value for name, value in run.settings.items() if name not in CHECKSUMS}, sort_keys=True)


def _of_same_data(runs: list[FinishedRun], name: str) -> list[list[FinishedRun]]:
    """Split runs by a checksum of their data. If all known values agree, runs without a value are not split off."""
    parts = by(lambda run: run.settings.get(name), runs)
    return list(parts.values()) if len(parts.keys() - {None}) > 1 else [runs]


def by_data(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return the groups of each data set; accuracies are comparable within a data set."""
    return by(lambda group: group.first.comparable, groups)


def _differing(run: FinishedRun, others: list[FinishedRun]) -> list[str]:
    """Return the settings in which a run differs from other runs of its data and networks, also of other methods."""
    rivals = [other for other in others if _compete(run, other)]
    alike = [other for other in rivals if (other.name, other.teacher) == (run.name, run.teacher)]
    names = [name for name in run.settings if name not in SHOWN]
    return [name for name in names if len(_values(name, alike)) > 1 or _varies(name, run, rivals)]


def _compete(run: FinishedRun, other: FinishedRun) -> bool:
    """Return True if both train the same student on the same data, from one teacher or one of them from none."""
    same = (run.comparable, run.student) == (other.comparable, other.student)
    return same and (run.teacher == other.teacher or not run.teacher or not other.teacher)


def _varies(name: str, run: FinishedRun, rivals: list[FinishedRun]) -> bool:
    """Return True if the runs that have a setting differ in it, other than by the defaults of their methods."""
    having = [other for other in rivals if _has(other, name)]
    chosen = any(other.settings.get(name) != other.method_defaults.get(name, name) for other in having)
    return chosen and _has(run, name) and name not in NAMES and len(_values(name, having)) > 1


def _has(run: FinishedRun, name: str) -> bool:
    return _value(name, run) is not None and bool(run.teacher or not name.startswith("teacher"))


def _apart(run: FinishedRun, others: list[FinishedRun]) -> list[str]:
    """Return the settings that distinguish the runs of one name and student, the method's own before others."""
    alike = [o for o in others if (o.comparable, o.student, o.name) == (run.comparable, run.student, run.name)]
    names = [name for name in dict.fromkeys(n for o in alike for n in o.settings) if len(_values(name, alike)) > 1]
    for name in reversed(names):
        rest = [other for other in names if other != name]
        if all(any(len(_values(other, pair)) > 1 for other in rest) for pair in combinations(alike, 2)):
            names = rest
    return [name for name in names if name in run.settings]


def _values(name: str, runs: Iterable[FinishedRun]) -> set[str]:
    """Return the values of a setting in the runs that have it."""
    return {json.dumps(_value(name, run)) for run in runs if name in run.settings or name in TERMS}


def _value(name: str, run: FinishedRun) -> Any:
    """Return the value of a setting, also of a term that the method cannot have."""
    return run.settings.get(name, TERMS.get(name))


def _order(value: Any) -> tuple:
    """Return a sort key of a setting's value: numbers by size, then words, then lists."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, json.dumps(value)


def _words(run: FinishedRun, names: Iterable[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_short(run.settings[name])}" for name in names)


def _short(value: object) -> str:
    """Format a value as on the command line; of a checksum, only the first digits."""
    words = value if isinstance(value, list) else [value]
    return " ".join(f"{word:g}" if isinstance(word, float) else str(word)[:24] for word in words)
