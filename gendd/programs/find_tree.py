"""Find the tree of a command: the module that the user typed, or the tree of a run among the arguments."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gendd.core.errors import InvalidValue, UserError
from gendd.family import TREES, Tree, tree_named
from gendd.runs.config_file import read_content
from gendd.runs.folder import RunFolder, embedded_record

IMAGES = {"gendd_cifar": "small images", "gendd_imagenet": "photographs"}


def find_tree(module: str, arguments: Sequence[str], own_flags: bool) -> Tree:
    """Return the tree of a module: its own, or for `python -m gendd` the tree of the run that the arguments name.

    Without a run the environment's TREE names it.

    Args:
        own_flags: whether the program's flags differ between the trees.

    Raises:
        UserError: a damaged run folder, a tree of no such name, or none where the program's flags depend on it.
    """
    if module in TREES:
        return tree_named(module)
    source, name = next(_named(arguments), ("TREE", os.environ.get("TREE")))
    if not name and own_flags:
        program = arguments[0]
        commands = " or ".join(f"python -m {tree} {program} ... ({images})" for tree, images in IMAGES.items())
        raise UserError(f"PROGRAM {program}: no run folder is given that names the tree; choose {commands}")
    try:
        return replace(tree_named(name or TREES[0]), typed=module)
    except InvalidValue as error:
        raise UserError(f"{source} {error}") from error


def _named(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the trees that runs, their files and configuration files among the arguments name, and where."""
    values = (argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments)
    for path in (Path(value) for value in values if value):
        if Path(path, "config.json").is_file():
            yield f"{path}/config.json: tree", str(RunFolder(path).read("config.json").get("tree"))
        elif path.is_file() and (record := embedded_record(path) or _content(path)):
            yield f"{path}: tree", str(record.get("tree"))


def _content(path: Path) -> dict:
    """Return the content of a JSON file; empty for other files."""
    try:
        return read_content(path) if path.suffix == ".json" else {}
    except InvalidValue:
        return {}
