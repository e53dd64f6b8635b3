"""The programs that work on runs of both families: gendd --help, or python -m gendd --help."""

from functools import partial

from gendd.core.errors import run_program
from gendd.programs.main import main as run_named_program

main = partial(run_program, partial(run_named_program, "gendd"))

if __name__ == "__main__":
    main()
