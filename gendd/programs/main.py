"""The command line of a tree: python -m gendd_cifar PROGRAM [flags]."""

import importlib
import sys

from gendd.errors import naming, unknown_name
from gendd.programs.tree import Tree

# Where each program lies, and what it does. A program is imported when it is asked for: some draw pictures.
PROGRAMS = {
    "train": ("gendd.programs.train", "train", "train a teacher, a student alone, or a student from a teacher"),
    "evaluate": ("gendd.programs.evaluate", "evaluate_checkpoint", "measure a run or a checkpoint"),
    "sampling": ("gendd.programs.sampling", "ablate_sampling", "what guidance or sampler make of a trained head"),
    "knn": ("gendd.programs.judge", "knn", "judge a student's features by their nearest neighbors"),
    "probe": ("gendd.programs.judge", "probe", "judge them by a linear classifier, fitted afterwards"),
    "zero-shot": ("gendd.programs.judge", "zero_shot", "judge them by a vector for each class"),
    "report": ("gendd.reporting.report", "report", "compare finished runs: tables and pictures"),
    "equal-cost": ("gendd.programs.equal_cost", "equal_cost", "networks that cost as much as a student with its head"),
}


def main(tree: Tree, arguments: list[str] | None = None) -> None:
    """Run the program that the first argument names, with the flags after it.

    Raises:
        UserError: there is no such program, or whatever it refuses.
    """
    name, *flags = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: python -m {tree.name} PROGRAM [flags]; PROGRAM --help tells its flags\n")
        print("\n".join(f"  {program:<11} {help}" for program, (_, _, help) in PROGRAMS.items()))
        return
    with naming("PROGRAM"):
        if name not in PROGRAMS:
            raise unknown_name(name, PROGRAMS)
    module, function, _ = PROGRAMS[name]
    getattr(importlib.import_module(module), function)(tree, flags)
