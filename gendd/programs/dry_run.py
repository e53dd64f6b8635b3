"""Parts of a dry run: it builds the networks and lists what is missing or wrong."""

from collections.abc import Callable
from dataclasses import replace

from gendd.config import FIRST_FURTHER, Config
from gendd.core.errors import MissingFile, UserError, with_flags
from gendd.networks.create import Zoo
from gendd.runs.experiment import ROLES, Experiment, Role
from gendd.runs.networks import RANDOM, find_weights


class MissingInputs(UserError):
    """The end of a dry run that found something missing or wrong."""


def without_absent(config: Config, zoo: Zoo) -> tuple[Config, dict[str, str]]:
    """Return the configuration with random weights in place of missing ones, and the error message per network."""
    absent: dict[str, str] = {}
    for role in ROLES:
        name, weights = getattr(config.networks, role), getattr(config.networks, f"{role}_weights")
        if name and (error := _absence(role, name, weights, zoo)):
            absent[role] = error
    random, further = dict.fromkeys((f"{role}_weights" for role in absent), RANDOM), []
    for number, teacher in enumerate(config.networks.more_teachers, FIRST_FURTHER):
        if error := _absence("teacher", teacher.teacher or "", teacher.teacher_weights, zoo):
            absent[f"teacher {number}"], teacher = error, replace(teacher, teacher_weights=RANDOM)
        further.append(teacher)
    return config.changed(**random, more_teachers=tuple(further)), absent


def _absence(role: Role, name: str, weights: str | None, zoo: Zoo) -> str:
    """Return the error message about missing weights; empty if they are there."""
    try:
        find_weights(role, name, weights, zoo, fetch=False)
    except MissingFile as error:
        return str(error)
    return ""


def note_absent(experiment: Experiment, absent: dict[str, str]) -> None:
    """Mark missing weights in the descriptions of the networks, for the plan."""
    teachers = [experiment.teacher, *experiment.more_teachers]
    networks = {"student": experiment.student}
    for number, teacher in enumerate(teachers, 1):
        if teacher:
            networks["teacher" if number == 1 else f"teacher {number}"] = teacher.loaded
    for name in absent:
        networks[name].loaded, networks[name].checksum = "its weights are missing", None


def errors_of(action: Callable[[], object]) -> list[str]:
    """Run an action and return the message of its UserError, if it raises one."""
    try:
        action()
    except UserError as error:
        return [str(error)]
    return []


def refuse_missing(missing: list[str]) -> None:
    """Raise MissingInputs if a dry run found any, after it printed `list_missing`."""
    if missing:
        raise MissingInputs("the dry run found missing or wrong inputs, listed above; correct them, then run it again")


def list_missing(missing: list[str]) -> str:
    """Return the printed list, one line per missing or wrong input."""
    return (
        with_flags("\n".join(["missing or wrong:", *(f"  {line}" for line in missing)]))
        if missing
        else "nothing is missing"
    )
