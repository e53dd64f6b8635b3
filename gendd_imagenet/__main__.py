"""The programs of this family, for photographs: gendd-imagenet --help, or python -m gendd_imagenet --help."""

from functools import partial

from gendd.core.errors import run_program
from gendd.programs.main import main as run_named_program

main = partial(run_program, partial(run_named_program, "gendd_imagenet"))

if __name__ == "__main__":
    main()
