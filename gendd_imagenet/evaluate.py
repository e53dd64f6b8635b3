"""Evaluate on photographs: python -m gendd_imagenet.evaluate --help."""

from gendd.errors import run_program
from gendd.programs.evaluate import evaluate_checkpoint
from gendd_imagenet.tree import TREE


def main(arguments: list[str] | None = None) -> None:
    evaluate_checkpoint(TREE, arguments)


if __name__ == "__main__":
    run_program(main)
