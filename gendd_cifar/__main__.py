"""The programs of this family, for small images: python -m gendd_cifar --help."""

from functools import partial

from gendd.core.errors import run_program
from gendd.programs.main import main

if __name__ == "__main__":
    run_program(partial(main, "gendd_cifar"))
