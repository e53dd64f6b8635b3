"""The command line: gendd-cifar PROGRAM [flags]. The list of programs is printed without slow imports."""

import contextlib
import importlib
import os
import sys
from importlib.metadata import version
from typing import NamedTuple

from gendd import __version__
from gendd.core.command import typed_command
from gendd.core.errors import naming, unknown_name
from gendd.core.stopping import Stopping

HELP = ("-h", "--help")


class Program(NamedTuple):
    """A program of the command line. Its module is imported only when the program runs.

    Args:
        own_flags: True if its flags differ between the families.
        resumes: True if it continues its work when it is started again after a signal.
    """

    module: str
    function: str
    help: str
    own_flags: bool = False
    resumes: bool = False


PROGRAMS = {
    "train": Program(
        "gendd.programs.train",
        "train",
        "train a teacher, a student alone, or a student from a teacher",
        own_flags=True,
        resumes=True,
    ),
    "recipes": Program("gendd.programs.recipes", "recipes", "list the recipes of train, or print one", own_flags=True),
    "evaluate": Program(
        "gendd.programs.evaluate", "evaluate_checkpoint", "measure a run or a checkpoint", own_flags=True
    ),
    "sampling": Program(
        "gendd.programs.sampling", "ablate_sampling", "measure a trained head with each guidance or sampler"
    ),
    "knn": Program("gendd.programs.probes", "knn", "evaluate a student's features by nearest neighbors"),
    "probe": Program("gendd.programs.probes", "probe", "evaluate a student's features by a linear probe"),
    "zero-shot": Program("gendd.programs.probes", "zero_shot", "evaluate a student's features by one vector per class"),
    "dense-probe": Program(
        "gendd.programs.dense_probe", "dense_probe", "evaluate a student's feature map on images with masks"
    ),
    "publish": Program(
        "gendd.programs.publish", "publish", "write a student with its model card for the Hugging Face Hub"
    ),
    "export": Program("gendd.programs.export", "export", "write a student as ONNX, torch.export or int8, and check it"),
    "report": Program("gendd.programs.report", "report", "compare finished runs: tables and pictures"),
    "compare": Program("gendd.programs.compare", "compare", "train methods with several seeds, then report"),
    "ablate": Program("gendd.programs.sweep", "ablate", "train or sample with each value of a setting, then plot"),
    "equal-cost": Program(
        "gendd.programs.equal_cost", "equal_cost", "find networks that cost as much as a student with its head"
    ),
    "reinforce": Program(
        "gendd_imagenet.reinforce", "reinforce", "store a teacher's features beside the images of shards"
    ),
    "launch": Program("gendd.launch", "launch", "start a program, such as train, with one process per GPU"),
}


def main(module: str, arguments: list[str] | None = None) -> None:
    """Run the program that the first argument names, with the flags after it.

    Args:
        module: module that the user typed, such as "gendd_cifar".

    Raises:
        UserError: the program is unknown, or it raises this error.
    """
    name, *flags = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name == "--version":
        print(f"gendd {__version__}, torch {version('torch')}, timm {version('timm')}")
        return
    if name in HELP:
        print(f"usage: {typed_command(module)} PROGRAM [flags]; PROGRAM --help lists its flags\n")
        print("\n".join(f"  {name:<11} {program.help}" for name, program in PROGRAMS.items()))
        return
    with naming("PROGRAM"):
        if name not in PROGRAMS:
            raise unknown_name(name, PROGRAMS)
    program = PROGRAMS[name]
    # From the first slow import on.
    with Stopping().handling(_stopped) if program.resumes else contextlib.nullcontext():
        _run(module, name, program, flags)


def _stopped() -> str:
    first = not int(os.environ.get("RANK", 0))
    return "stopped before the training; run the same command again to start or resume it" if first else ""


def _run(module: str, name: str, program: Program, flags: list[str]) -> None:
    from gendd.programs.find_family import UnknownFamily, explain_choice, find_family
    from gendd.runs.published import located

    flags[:1] = [str(located(run)) for run in flags[:1]]
    try:
        family = find_family(module, [name, *flags], program.own_flags)
    except UnknownFamily:
        if flags and not set(HELP) & set(flags):
            raise
        print(explain_choice(module, name))
        return
    getattr(importlib.import_module(program.module), program.function)(family, flags)
