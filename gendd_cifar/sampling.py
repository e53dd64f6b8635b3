"""How a head's read-out depends on its sampling, on small images: python -m gendd_cifar.sampling --help."""

from gendd.errors import run_program
from gendd.programs.sampling import ablate_sampling
from gendd_cifar.tree import TREE


def main(arguments: list[str] | None = None) -> None:
    ablate_sampling(TREE, arguments)


if __name__ == "__main__":
    run_program(main)
