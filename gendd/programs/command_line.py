"""Parse command lines into dataclasses with tyro: fields become flags, their docstrings the help."""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any, cast

import tyro

from gendd.core.errors import UserError

RunArgument = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RUN")]]
# tyro's message about a missing argument: the program's name, then the argument's name and help.
MISSING = re.compile(r"(?:Missing from .*?: )?(\S+) (.*?)\.? \(required\)")
# The end of tyro's messages: the flag's help, and where all help is.
HELP_TEXT = re.compile(r"\.? (Argument helptext:|For full helptext,).*$")
# tyro's messages about a value that is not a number, with Python's.
NOT_A_NUMBER = re.compile(
    r"Error parsing (\S+): (?:invalid literal for (int)\(\) with base 10|could not convert string to float): '(.*)'$"
)


def parse(
    kind: Any,
    program: str,
    arguments: Sequence[str] | None = None,
    default: Any = None,
    description: str | None = None,
) -> Any:
    """Parse a command line into a dataclass. A nested dataclass is a section of the help; its flags get no prefix.

    Args:
        program: what the user types before the flags.
        default: values of the flags that are not given, in place of the class's defaults.

    Raises:
        UserError: a mistake in the command line, in one line.
    """
    messages = io.StringIO()
    try:
        # Help has colors in a terminal.
        help_to = getattr(sys.stdout, "stream", sys.stdout)
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(help_to):
            config, unknown = tyro.cli(
                kind,
                prog=program,
                description=description,
                args=arguments,
                default=default,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        # Strip colors, frame, rules (dashes if the terminal is not UTF-8) and the first line from tyro's box.
        title, *lines = re.sub(r"\x1b\[[0-9;]*m|[─-╿]|-{3,}", " ", messages.getvalue()).splitlines()
        text = " ".join(" ".join(lines or [title]).split())
        text = f"{NOT_A_NUMBER.sub(_not_a_number, HELP_TEXT.sub('', text))}; {program} --help lists the flags"
        if missing := MISSING.findall(text):
            text = "; ".join(f"{name} is missing: give it before the flags ({help})" for name, help in missing)
        raise UserError(text) from None
    if unknown:
        raise UserError(f"{_unknown(unknown, _flags(config))}; {program} --help lists the flags")
    return _at_home(config)


def _not_a_number(match: re.Match[str]) -> str:
    flag, whole, value = match.groups()
    return f"{flag} {value}: not a {'whole ' if whole else ''}number"


def _unknown(words: list[str], known: list[str]) -> str:
    """Describe the unknown flags, with the nearest known ones, or the values that do not belong to a flag."""
    flags = [word.partition("=")[0] for word in words if re.match("--?[a-z]", word)]
    if not flags:
        return f"{' '.join(words)}: no flag takes this; leave it out"
    return "; ".join(f"{flag}: no such flag{_nearest(flag, known)}" for flag in flags)


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word.lstrip("-").replace("_", "-"), known, n=3, cutoff=0.7)
    return f"; nearest: {', '.join(f'--{name}' for name in near)}" if near else ""


def _flags(config: Any) -> list[str]:
    """Return the flags of a dataclass and of those within it, without dashes and without hidden ones."""
    names = []
    for field in dataclasses.fields(config):
        if tyro.conf.Suppress in getattr(field.type, "__metadata__", ()):
            continue
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            names += _flags(value)
        else:
            names += [field.name, f"no_{field.name}"] if isinstance(value, bool) else [field.name]
    return [name.replace("_", "-") for name in names]


def help_of(kind: type) -> dict[str, str]:
    """Return the help of all fields of a dataclass, including inherited ones."""
    bases = [base for base in reversed(kind.__mro__) if dataclasses.is_dataclass(base)]
    return {name: text for base in bases for name, text in own_help(base).items()}


@functools.cache
def own_help(kind: type) -> dict[str, str]:
    """Return the docstring of each field that a dataclass itself defines."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    body, found = cast(ast.ClassDef, definition).body, {}
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[cast(ast.Name, field.target).id] = " ".join(str(text.value.value).split())
    return found


def _at_home(value: Any) -> Any:
    """Replace ~ at the start of a value with the home folder; a shell does not do this in `flag=~/path`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: _at_home(part) for name, part in vars(value).items()})
    if isinstance(value, tuple):
        return tuple(map(_at_home, value))
    return os.path.expanduser(value) if isinstance(value, str) else value
