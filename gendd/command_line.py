"""From a command line to a configuration, by tyro: flags and help are its fields and their docstrings."""

import contextlib
import dataclasses
import io
import os
import re
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import tyro

from gendd.config import SECTIONS, TrainConfig
from gendd.errors import UserError
from gendd.methods import Method
from gendd.ranges import field_values

Config = TypeVar("Config")


def parse(
    config_class: type[Config],
    program: str,
    arguments: Sequence[str] | None = None,
    default: Config | None = None,
) -> Config:
    """Command line to configuration. A mistake in it is one line, like every other user error.

    Args:
        default: has the values of flags that are not given, in place of the class's own defaults, and of a training
            configuration the method.
    """
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            config = _parsed(config_class, f"python -m {program}", arguments, default)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro's box without its colors, frame and rules (dashes where the terminal is not UTF-8), and first line.
        title, *lines = re.sub(r"\x1b\[[0-9;]*m|[─-╿]|-{3,}", " ", messages.getvalue()).splitlines()
        raise UserError(" ".join(" ".join(lines or [title]).split())) from None
    return dataclasses.replace(cast(Any, config), **{name: _at_home(value) for name, value in vars(config).items()})


def _parsed(
    config_class: type[Config], program: str, arguments: Sequence[str] | None, default: Config | None
) -> Config:
    """By tyro, its help in the class's sections where it has any."""
    if not isinstance(default, TrainConfig):
        return tyro.cli(config_class, prog=program, args=arguments, default=default)
    parts = {
        name: default.method if kind is Method else kind(**field_values(default, kind))
        for name, kind in sections_of(config_class).items()
    }
    fields = [(name, tyro.conf.OmitArgPrefixes[type(part)], part) for name, part in parts.items()]  # type: ignore[misc]
    whole = dataclasses.make_dataclass("Sections", fields, frozen=True)
    parsed = dict(vars(tyro.cli(whole, prog=program, description=type(default.method).__doc__, args=arguments)))
    method = parsed.pop("method")
    values = {name: value for part in parsed.values() for name, value in vars(part).items()}
    return cast(Any, config_class)(**values, method=method)


def sections_of(config_class: type) -> dict[str, type]:
    """The class that each section of a training configuration has its fields from: a tree's own, or the common one."""
    # The whole configuration is of all sections, a part of it of one.
    parts = [*(base for base in config_class.__mro__ if not issubclass(base, TrainConfig)), Method]
    return {name: next(part for part in parts if issubclass(part, kind)) for name, kind in SECTIONS.items()}


def _at_home(value):
    """A path's ~ is the home folder, as in a shell, which leaves it alone in --flag=~/path."""
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value
