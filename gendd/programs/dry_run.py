"""Parts of a dry run: it builds the networks and lists what is missing or wrong."""

from collections.abc import Callable

from gendd.config import Config
from gendd.core.errors import MissingFile, UserError, with_flags
from gendd.networks.create import Zoo
from gendd.runs.experiment import Experiment
from gendd.runs.networks import RANDOM, find_weights


class MissingInputs(UserError):
    """The end of a dry run that found something missing or wrong."""


def without_absent(config: Config, zoo: Zoo) -> tuple[Config, dict[str, str]]:
    """Return the configuration with random weights in place of missing ones, and the error message per role."""
    absent = {}
    for role in ("student", "teacher"):
        name, weights = getattr(config.networks, role), getattr(config.networks, f"{role}_weights")
        try:
            find_weights(role, name, weights, zoo, fetch=False)
        except MissingFile as error:
            absent[role] = str(error)
    return config.changed(**dict.fromkeys((f"{role}_weights" for role in absent), RANDOM)), absent


def note_absent(experiment: Experiment, absent: dict[str, str]) -> None:
    """Mark missing weights in the descriptions of the networks, for the plan."""
    for role in absent:
        network = experiment.teacher.loaded if role == "teacher" and experiment.teacher else experiment.student
        network.loaded, network.checksum = "its weights are missing", None


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
