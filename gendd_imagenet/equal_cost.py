"""Networks of this tree that cost as much as a student with its head: python -m gendd_imagenet.equal_cost --help."""

from gendd.errors import run_program
from gendd.programs.equal_cost import equal_cost
from gendd_imagenet.tree import TREE


def main(arguments: list[str] | None = None) -> None:
    equal_cost(TREE, arguments)


if __name__ == "__main__":
    run_program(main)
