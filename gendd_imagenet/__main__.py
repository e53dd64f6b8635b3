"""The programs of this tree, for photographs: python -m gendd_imagenet --help."""

from functools import partial

from gendd.errors import run_program
from gendd.programs.main import main
from gendd_imagenet.tree import TREE

if __name__ == "__main__":
    run_program(partial(main, TREE))
