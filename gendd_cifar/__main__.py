"""The programs of this tree, for small images: python -m gendd_cifar --help."""

from functools import partial

from gendd.errors import run_program
from gendd.programs.main import main
from gendd_cifar.tree import TREE

if __name__ == "__main__":
    run_program(partial(main, TREE))
