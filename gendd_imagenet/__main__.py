"""The programs of this family, for photographs: python -m gendd_imagenet --help."""

from functools import partial

from gendd.core.errors import run_program
from gendd.programs.main import main

if __name__ == "__main__":
    run_program(partial(main, "gendd_imagenet"))
