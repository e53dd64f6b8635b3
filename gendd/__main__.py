"""The programs of the tree that a run is of: python -m gendd evaluate|knn|report|... [flags].

A run folder among the arguments names its tree. Without one the environment's TREE does. Programs whose flags differ
between the trees ask for it.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gendd.errors import UserError, naming, run_program
from gendd.family import Tree, tree_named
from gendd.programs.main import PROGRAMS, main
from gendd.runs import RunFolder, embedded_record

IMAGES = {"gendd_cifar": "small images", "gendd_imagenet": "photographs"}


def tree_of(arguments: Sequence[str]) -> Tree:
    """The tree of the run folder among the arguments, or of the environment, with this module's name for usage lines.

    Raises:
        UserError: a damaged run folder, a tree of no such name, or none where the program's flags depend on it.
    """
    values = (argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments)
    source, name = "TREE", os.environ.get("TREE")
    for path in (Path(value) for value in values if value):
        if Path(path, "config.json").is_file():
            source, name = f"{path}/config.json: tree", str(RunFolder(path).read("config.json").get("tree"))
        elif path.is_file() and (record := embedded_record(path)):
            source, name = f"{path}: tree", record.get("tree")
    with naming(source):
        return replace(tree_named(name or _any_tree(*arguments[:1])), typed="gendd")


def _any_tree(program: str = "") -> str:
    if program in PROGRAMS and PROGRAMS[program].own_flags:
        commands = " or ".join(f"python -m {tree} {program} ... ({images})" for tree, images in IMAGES.items())
        raise UserError(f"PROGRAM {program}: no run folder is given that names the tree; choose {commands}")
    return next(iter(IMAGES))


if __name__ == "__main__":
    run_program(lambda: main(tree_of(sys.argv[1:])))
