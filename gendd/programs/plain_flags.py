"""Training commands from the flags after "--", for pairs without a script."""

import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields

from gendd.core.errors import UserError
from gendd.methods import Method
from gendd.runs.folder import data_name

# The command before a module, with one process per GPU.
LAUNCHER = (sys.executable, "-m", "gendd.launch")
SMALL_IMAGES, PHOTOGRAPHS = "gendd_cifar", "gendd_imagenet"
# Prefixes of the flags that need a teacher.
OF_TEACHERS = ("teacher", "cached_")


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Return the words before "--" and the flags after it; None for the flags without a "--"."""
    words = list(arguments)
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def plain_command(method: str, flags: Sequence[str]) -> tuple[str, ...]:
    """Return the command that trains a method on the data that the flags name."""
    return *LAUNCHER, _program(flags), "train", method, *flags


def data_of(flags: Sequence[str]) -> str:
    """Return the name of the data set.

    Raises:
        UserError: the flags do not name it.
    """
    return data_name(_dataset(flags))


def flags_of(method: type[Method], compared: Iterable[type[Method]], flags: Sequence[str]) -> list[str]:
    """Return the flags without options of other methods, and without teacher flags if the method does not use one."""
    foreign = {name for other in compared for name in _options(other)} - _options(method)
    kept, keep = [], True
    for word in flags:
        if word.startswith("--"):
            name = word[2:].partition("=")[0].replace("-", "_").removeprefix("no_")
            keep = name not in foreign and (method.needs_teacher or not name.startswith(OF_TEACHERS))
        if keep:
            kept.append(word)
    return kept


def _options(method: type[Method]) -> set[str]:
    return {field.name for field in fields(method)}


def _dataset(flags: Sequence[str]) -> str:
    pairs = zip(flags, [*flags[1:], ""], strict=True)
    found = [value for flag, value in pairs if flag in ("--dataset", "--images")]
    found += [flag.partition("=")[2] for flag in flags if flag.startswith(("--dataset=", "--images="))]
    if not found:
        raise UserError("--dataset is missing: name the data after --, such as -- --dataset FOLDER --student resnet20")
    return found[-1]


def _program(flags: Sequence[str]) -> str:
    """Return the family: FAMILY from the environment, else the CIFAR family if it knows the data set's name."""
    small = _dataset(flags) in importlib.import_module(f"{SMALL_IMAGES}.sources").NAMES
    return os.environ.get("FAMILY") or (SMALL_IMAGES if small else PHOTOGRAPHS)
