"""The programs of the tree that a run is of: python -m gendd evaluate|knn|report|... [flags].

A run folder among the arguments names its tree. Without one the environment's TREE does. Programs whose flags differ
between the trees ask for it.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gendd.errors import UserError, run_program
from gendd.programs.main import PROGRAMS, main
from gendd.programs.tree import Tree
from gendd.runs import RunFolder

TREES = {"gendd_cifar": "small images", "gendd_imagenet": "photographs"}


def tree_of(arguments: Sequence[str]) -> Tree:
    """The tree of the run folder among the arguments, or of the environment, with this module's name for usage lines.

    Raises:
        UserError: a damaged run folder, a tree of no such name, or none where the program's flags depend on it.
    """
    values = (argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments)
    run = next((RunFolder(Path(value)) for value in values if value and Path(value, "config.json").is_file()), None)
    source, name = f"{run.path}/config.json: tree" if run else "TREE", os.environ.get("TREE")
    if run:
        name = run.read("config.json").get("tree")
    elif name is None:
        name = _any_tree(*arguments[:1])
    if name not in TREES:
        raise UserError(f"{source} {name}: no such tree; known: {', '.join(TREES)}")
    return replace(importlib.import_module(f"{name}.tree").TREE, typed="gendd")


def _any_tree(program: str = "") -> str:
    if program in PROGRAMS and PROGRAMS[program].own_flags:
        commands = " or ".join(f"python -m {tree} {program} ... ({images})" for tree, images in TREES.items())
        raise UserError(f"PROGRAM {program}: no run folder is given that names the tree; choose {commands}")
    return next(iter(TREES))


if __name__ == "__main__":
    run_program(lambda: main(tree_of(sys.argv[1:])))
