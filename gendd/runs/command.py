"""The command that trains a configuration."""

import shlex
from typing import Any

from gendd.config import Config
from gendd.core.errors import flag
from gendd.core.ranges import field_names
from gendd.family import Family
from gendd.runs.folder import NOT_COMPARED


def training_command(family: Family, config: Config) -> str:
    """Return the command line that trains a configuration, with the flags that differ from the defaults.

    Flags that do not change the trained weights are left out.
    """
    default, words = family.config(type(config.method)()), ["python", "-m", family.name, "train", config.method.name]
    for part in field_names(Config):
        given, usual = getattr(config, part), getattr(default, part)
        for name in field_names(type(given)):
            value = getattr(given, name)
            if value not in (None, getattr(usual, name)) and name not in NOT_COMPARED - {"paper"}:
                words += _words(name, value)
    return shlex.join(words)


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    return [flag(name), *map(str, value if isinstance(value, tuple) else [value])]
