"""The programs of both families as functions of their command line, and configurations of the train program."""

import sys
from functools import partial

from gendd.config import Config
from gendd.methods import METHODS
from gendd.programs.configuration import configuration
from gendd.programs.equal_cost import equal_cost
from gendd.programs.evaluate import evaluate_checkpoint
from gendd.programs.sampling import ablate_sampling
from gendd.programs.train import train
from gendd.runs.networks import build_student, build_teacher
from gendd_cifar.family import FAMILY as CIFAR
from gendd_imagenet.family import FAMILY as IMAGENET


def cifar_config(*flags: str, method: str = "gendd") -> Config:
    return configuration(CIFAR, [method, *flags])


def imagenet_config(*flags: str, method: str = "gendd") -> Config:
    return configuration(IMAGENET, [method, *flags])


def for_head(method: str, options):
    """Return those of a head's options that the method has: a list of flags with values, or a dictionary."""
    if isinstance(options, dict):
        return {name: value for name, value in options.items() if hasattr(METHODS[method], name)}
    pairs = zip(options[::2], options[1::2], strict=True)
    return [word for pair in pairs if hasattr(METHODS[method], pair[0][2:].replace("-", "_")) for word in pair]


def values_of(config: Config) -> dict:
    """Return all values of a configuration by the names of their fields, and the name of its method."""
    values = {name: value for part in vars(config).values() for name, value in vars(part).items()}
    return values | {"method": config.method.name}


def build_network(role, name, weights, names, num_classes, image_size, allow_partial=False, **given):
    """Build the network of a role, "student" or "teacher"."""
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


def train_cifar(words: list[str] | None = None) -> None:
    train(CIFAR, sys.argv[1:] if words is None else words)


def train_imagenet(words: list[str]) -> None:
    train(IMAGENET, words)


evaluate_cifar, evaluate_imagenet = partial(evaluate_checkpoint, CIFAR), partial(evaluate_checkpoint, IMAGENET)
sampling_cifar, equal_cost_cifar = partial(ablate_sampling, CIFAR), partial(equal_cost, CIFAR)
