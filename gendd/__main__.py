"""The programs that work on runs of both families: python -m gendd --help."""

from functools import partial

from gendd.core.errors import run_program
from gendd.programs.main import main

if __name__ == "__main__":
    run_program(partial(main, "gendd"))
