"""The programs of both trees, as functions of their flags.

Tests compose flags, of which a later one holds, and the method is one of them: --method NAME, which the train program
takes as its first word. Options of gendd's that another method does not have are then left out.
"""

import dataclasses
from functools import partial

from gendd.methods import METHODS, GenDD
from gendd.programs.equal_cost import equal_cost
from gendd.programs.evaluate import evaluate_checkpoint
from gendd.programs.sampling import ablate_sampling
from gendd.programs.train import configuration, train
from gendd.ranges import flag
from gendd_cifar.config import CifarTrainConfig
from gendd_cifar.tree import TREE as CIFAR
from gendd_imagenet.config import ImageNetTrainConfig
from gendd_imagenet.tree import TREE as IMAGENET


def words_of(flags: list[str]) -> list[str]:
    """The train program's words for flags with --method, if they have one."""
    flags, methods = list(flags), []
    while "--method" in flags:
        at = flags.index("--method")
        methods, flags = [flags[at + 1]], flags[:at] + flags[at + 2 :]
    if methods and methods[0] in METHODS:
        own = {field.name for field in dataclasses.fields(METHODS[methods[0]])}
        for name in {field.name for field in dataclasses.fields(GenDD)} - own - {"paper"}:
            while (option := flag(name)) in flags:
                at = flags.index(option)
                flags = flags[:at] + flags[at + 2 :]
    return methods + flags


def cifar_config(*flags: str) -> CifarTrainConfig:
    """Of gendd, if no method is named."""
    return configuration(CIFAR, words_of(["--method", "gendd", *flags]))


def imagenet_config(*flags: str) -> ImageNetTrainConfig:
    return configuration(IMAGENET, words_of(["--method", "gendd", *flags]))


def train_cifar(flags: list[str]) -> None:
    train(CIFAR, words_of(flags))


def train_imagenet(flags: list[str]) -> None:
    train(IMAGENET, words_of(flags))


evaluate_cifar, evaluate_imagenet = partial(evaluate_checkpoint, CIFAR), partial(evaluate_checkpoint, IMAGENET)
sampling_cifar, equal_cost_cifar = partial(ablate_sampling, CIFAR), partial(equal_cost, CIFAR)
