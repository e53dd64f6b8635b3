"""The programs of both trees, as functions of their flags.

Tests compose flags, of which a later one holds, and the method is one of them: --method NAME, which the train program
takes as its first word; gendd, if none is named. Options that it does not have are then left out.
"""

import dataclasses
import sys
from functools import partial

from gendd.config import Config
from gendd.experiment import build_student, build_teacher
from gendd.family import Tree
from gendd.methods import METHODS
from gendd.programs.equal_cost import equal_cost
from gendd.programs.evaluate import evaluate_checkpoint
from gendd.programs.sampling import ablate_sampling
from gendd.programs.train import configuration, train
from gendd.ranges import flag
from gendd_cifar.tree import TREE as CIFAR
from gendd_imagenet.tree import TREE as IMAGENET


def words_of(flags: list[str]) -> list[str]:
    """The train program's words for flags with --method, if they have one."""
    flags, methods = list(flags), []
    while "--method" in flags:
        at = flags.index("--method")
        methods, flags = [flags[at + 1]], flags[:at] + flags[at + 2 :]
    if not methods and flags and flags[0].startswith("-") and not {"--resume", "--config", "--help"} & {*flags}:
        methods = ["gendd"]
    if methods and methods[0] in METHODS:
        options = {kind: {field.name for field in dataclasses.fields(kind)} for kind in METHODS.values()}
        for name in set().union(*options.values()) - options[METHODS[methods[0]]] - {"paper"}:
            while (option := flag(name)) in flags:
                at = flags.index(option)
                flags = flags[:at] + flags[at + 2 :]
    return methods + flags


def cifar_config(*flags: str) -> Config:
    """Of gendd, if no method is named."""
    return configuration(CIFAR, words_of(["--method", "gendd", *flags]))


def imagenet_config(*flags: str) -> Config:
    return configuration(IMAGENET, words_of(["--method", "gendd", *flags]))


def values_of(config: Config) -> dict:
    """All values of a configuration by their fields' names, and the name of its method."""
    values = {name: value for part in vars(config).values() for name, value in vars(part).items()}
    return values | {"method": config.method.name}


def config_of(tree: Tree, method: str, **values) -> Config:
    """The configuration of a method; values that it has no field for are left out."""
    config = tree.config(METHODS[method]())
    return config.changed(**{name: value for name, value in values.items() if name in values_of(config)})


def build_network(role, name, weights, names, num_classes, image_size, allow_partial=False, **given):
    """The network of a role, as a run's configuration names it."""
    if role == "student":
        return build_student(name, weights, names, num_classes, image_size, allow_partial)
    settings = {
        "teacher": name,
        "teacher_weights": weights or "random",
        "image_size": image_size,
        "allow_partial": allow_partial,
    }
    settings |= {f"teacher_{word}": value for word, value in given.items()}
    return build_teacher(CIFAR.config(METHODS["kd"](), **settings), names, num_classes).loaded


def train_cifar(flags: list[str] | None = None) -> None:
    train(CIFAR, words_of(sys.argv[1:] if flags is None else flags))


def train_imagenet(flags: list[str]) -> None:
    train(IMAGENET, words_of(flags))


evaluate_cifar, evaluate_imagenet = partial(evaluate_checkpoint, CIFAR), partial(evaluate_checkpoint, IMAGENET)
sampling_cifar, equal_cost_cifar = partial(ablate_sampling, CIFAR), partial(equal_cost, CIFAR)
