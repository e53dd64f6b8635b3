"""The command that trains a configuration."""

import shlex
from typing import Any

from gendd.config import Config
from gendd.core.errors import flag
from gendd.core.ranges import field_names, field_values
from gendd.family import Family
from gendd.network_settings import TeacherNetwork
from gendd.runs.folder import NOT_COMPARED


def training_command(family: Family, config: Config) -> str:
    """Return the command line that trains a configuration, with the flags that differ from the defaults.

    Flags that do not change the trained weights are left out.
    """
    if getattr(config.method, "paper", False) and family.in_protocol(config.method) != config.method:
        # The flag would override the values that differ from the paper's.
        config = config.changed(paper=False)
    default, words = family.config(type(config.method)()), ["python", "-m", family.name, "train", config.method.name]
    teachers: list[str] = []
    for part in field_names(Config):
        given, usual = getattr(config, part), getattr(default, part)
        for name in field_names(type(given)):
            value = getattr(given, name)
            if name == "more_teachers":
                teachers += [word for teacher in value for word in _differing(teacher)]
            elif value not in (None, getattr(usual, name)) and name not in NOT_COMPARED - {"paper"}:
                words += _words(name, value)
    return shlex.join([*words, *teachers])


def _differing(teacher: TeacherNetwork) -> list[str]:
    """Return the flags of a further teacher, which must follow all others."""
    default, values = TeacherNetwork(), field_values(teacher, TeacherNetwork)
    differing = {name: value for name, value in values.items() if value != getattr(default, name)}
    return [word for name, value in differing.items() for word in _words(name, value)]


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    return [flag(name), *map(str, value if isinstance(value, tuple) else [value])]
