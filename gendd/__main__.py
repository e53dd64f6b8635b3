"""A tree's program on a run folder, which knows its tree: python -m gendd evaluate|sampling|equal-cost ... RUN [flags].

Where the arguments name no run folder, the environment's TREE names the tree (gendd_cifar if it does not).
"""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gendd.errors import UserError, run_program
from gendd.programs.main import main
from gendd.programs.tree import Tree
from gendd.runs import RunFolder

TREES = ("gendd_cifar", "gendd_imagenet")


def tree_of(arguments: Sequence[str]) -> Tree:
    """The tree of the run folder among the arguments, or of the environment.

    Raises:
        UserError: a damaged run folder, or a tree of no such name.
    """
    run = next((RunFolder(Path(argument)) for argument in arguments if Path(argument, "config.json").is_file()), None)
    source, name = f"{run.path}/config.json: tree" if run else "TREE", os.environ.get("TREE", TREES[0])
    if run:
        name = run.read("config.json").get("tree")
    if name not in TREES:
        raise UserError(f"{source} {name}: no such tree; known: {', '.join(TREES)}")
    return importlib.import_module(f"{name}.tree").TREE


if __name__ == "__main__":
    run_program(lambda: main(tree_of(sys.argv[1:])))
