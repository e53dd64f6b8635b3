"""From a command line to a configuration, by tyro: flags and help are its fields and their docstrings."""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import os
import re
import textwrap
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar, cast

import tyro

from gendd.config import SECTIONS, TrainConfig
from gendd.errors import UserError
from gendd.methods import Method
from gendd.ranges import field_names

Config = TypeVar("Config")
# What opens the help of train: the first ten of these that a tree has.
MOST_USED = (
    *(
        "student",
        "teacher",
        "teacher_weights",
        "dataset",
        "image_folder",
        "epochs",
        "batch_size",
        "lr",
        "seed",
        "dry_run",
    ),
    "unlabeled",
)


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
    sections = sections_of(config_class)
    kinds = {field: kind for kind in sections.values() if kind is not Method for field in field_names(kind)}
    first = {field: kinds[field] for field in MOST_USED if field in kinds}
    first = dict(list(first.items())[:10])
    parts: dict[str, Any] = {"most_used": _part("The flags most used.", first, default)}
    for name, kind in sections.items():
        others = {field: kind for field in field_names(kind) if field not in first} if kind is not Method else {}
        parts[name] = default.method if kind is Method else _part(kind.__doc__ or "", others, default)
    fields = [(name, tyro.conf.OmitArgPrefixes[type(part)], part) for name, part in parts.items()]  # type: ignore[misc]
    whole = dataclasses.make_dataclass("Sections", fields, frozen=True)
    parsed = dict(vars(tyro.cli(whole, prog=program, description=type(default.method).__doc__, args=arguments)))
    method = parsed.pop("method")
    values = {name: value for part in parsed.values() for name, value in vars(part).items()}
    return cast(Any, config_class)(**values, method=method)


def _part(title: str, kinds: dict[str, type], default: TrainConfig) -> object:
    """A group of the help: fields, each of the class that explains it, with the values of `default`."""
    fields = [
        (
            name,
            Annotated[typing.get_type_hints(kind, include_extras=True)[name], tyro.conf.arg(help=help_of(kind)[name])],
            dataclasses.field(default=getattr(default, name)),
        )
        for name, kind in kinds.items()
    ]
    return dataclasses.make_dataclass("Part", fields, frozen=True, namespace={"__doc__": title})()


def help_of(kind: type) -> dict[str, str]:
    """Return the help of all fields of a dataclass, those of its parents too."""
    bases = [base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)]
    return {name: text for base in bases for name, text in own_help(base).items()}


@functools.cache
def own_help(kind: type) -> dict[str, str]:
    """Return what the docstring below each of a dataclass's own fields says."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body, found = cast(ast.ClassDef, definition).body, {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[cast(ast.Name, field.target).id] = " ".join(str(text.value.value).split())
    return found


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
