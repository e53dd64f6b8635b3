"""Train on photographs: python -m gendd_imagenet.train --help."""

from gendd.errors import run_program
from gendd.programs.train import train
from gendd_imagenet.tree import TREE


def main(arguments: list[str] | None = None) -> None:
    train(TREE, arguments)


if __name__ == "__main__":
    run_program(main)
