"""Published top-1 accuracies (percent). Reports quote them next to measured ones and never average them together."""

from dataclasses import dataclass
from pathlib import Path

from gendd.runs.folder import AVERAGED, data_name

PAPER, RELEASE = "arXiv 2507.14503", "a later release of arXiv 2507.14503"
LITERATURE = "literature, RepDistiller's protocol"
LONG_TAIL = "literature on ImageNet-LT"
# A linear probe fitted to the frozen backbone after training. It is not comparable to the probe of a run.
POST_HOC = "post-hoc probe"
# Settings that no published figure uses.
UNPUBLISHED = ("holdout", "imbalance", "label_fraction", "unlabeled_dir")


@dataclass(frozen=True)
class Quoted:
    """A published figure. `method` is the project's name of the method, or "teacher"; `epochs` is None if unknown."""

    data: str
    teacher: str
    student: str
    method: str
    top1: float
    epochs: int | None
    source: str
    output: str = "classifier"


def _cifar100(teacher: str, student: str, *figures: float) -> list[Quoted]:
    methods = ("teacher", "classification", "kd", "dkd", "ikl")
    return [
        Quoted("cifar100", teacher, student, method, top1, 240, LITERATURE)
        for method, top1 in zip(methods, figures, strict=True)
    ]


def _long_tail(student: str, *figures: float) -> list[Quoted]:
    methods = ("classification", "kd", "ikl")
    return [
        Quoted("imagenet_lt", "resnext101_32x4d", student, method, top1, None, LONG_TAIL)
        for method, top1 in zip(methods, figures, strict=True)
    ]


PUBLISHED = (
    *_cifar100("resnet56", "resnet20", 72.34, 69.06, 70.66, 71.97, 71.44),
    *_cifar100("resnet110", "resnet32", 74.31, 71.14, 73.08, 74.11, 74.26),
    *_cifar100("resnet32x4", "resnet8x4", 79.42, 72.50, 73.33, 76.32, 76.59),
    *_cifar100("wrn_40_2", "wrn_16_2", 75.61, 73.26, 74.92, 76.24, 76.45),
    *_cifar100("wrn_40_2", "wrn_40_1", 75.61, 71.98, 73.54, 74.81, 74.98),
    *_cifar100("vgg13", "vgg8", 74.64, 70.36, 72.98, 74.68, 74.98),
    Quoted("imagenet", "resnet34", "resnet18", "teacher", 73.31, None, PAPER),
    Quoted("imagenet", "resnet34", "resnet18", "kd", 71.24, None, PAPER),
    Quoted("imagenet", "resnet34", "resnet18", "ikl", 71.91, None, PAPER),
    Quoted("imagenet", "resnet34", "resnet18", "gendd", 72.38, 100, PAPER, "head"),
    Quoted("imagenet", "resnet34", "resnet18", "gendd", 72.40, 100, PAPER, POST_HOC),
    Quoted("imagenet", "resnet50", "mobilenetv1", "teacher", 76.16, None, PAPER),
    Quoted("imagenet", "resnet50", "mobilenetv1", "kd", 71.44, None, PAPER),
    Quoted("imagenet", "resnet50", "mobilenetv1", "ikl", 73.19, None, PAPER),
    Quoted("imagenet", "resnet50", "mobilenetv1", "gendd", 73.78, 100, PAPER, "head"),
    Quoted("imagenet", "resnet50", "mobilenetv1", "gendd", 73.76, 100, PAPER, POST_HOC),
    Quoted("imagenet", "beitv2_base", "resnet50", "gendd", 82.01, 300, RELEASE, "head"),
    Quoted("imagenet", "beitv2_base", "resnet50", "gendd", 81.96, 300, RELEASE, POST_HOC),
    Quoted("imagenet", "beitv2_base", "resnet50", "gendd", 82.31, 600, RELEASE, "head"),
    Quoted("imagenet", "beitv2_base", "resnet50", "gendd", 82.15, 600, RELEASE, POST_HOC),
    Quoted("imagenet", "beitv2_large", "resnet50", "kd", 80.89, 300, PAPER),
    Quoted("imagenet", "beitv2_large", "resnet50", "dkd", 80.77, 300, PAPER),
    Quoted("imagenet", "beitv2_large", "resnet50", "gendd", 81.64, 300, PAPER, "head"),
    Quoted("imagenet", "beitv2_large", "resnet50", "gendd", 81.83, 300, RELEASE, "head"),
    Quoted("imagenet", "beitv2_large", "resnet50", "gendd", 81.79, 300, RELEASE, POST_HOC),
    Quoted("imagenet", "beitv2_large", "resnet50", "kd", 81.68, 600, PAPER),
    Quoted("imagenet", "beitv2_large", "resnet50", "dkd", 81.83, 600, PAPER),
    Quoted("imagenet", "beitv2_large", "resnet50", "gendd", 82.28, 600, PAPER, "head"),
    Quoted("imagenet", "beitv2_large", "resnet50", "gendd", 82.34, 600, RELEASE, "head"),
    Quoted("imagenet", "beitv2_large", "resnet50", "gendd", 82.36, 600, RELEASE, POST_HOC),
    *_long_tail("resnet50", 45.47, 48.31, 49.29),
    *_long_tail("resnet18", 41.15, 44.32, 45.21),
    Quoted("cc3m", "resnet50", "mobilenetv1", "kl", 51.60, 100, PAPER),
    Quoted("cc3m", "resnet50", "mobilenetv1", "gendd", 67.89, 100, PAPER, "head"),
    Quoted("cc3m", "resnet34", "resnet18", "gendd", 66.90, 100, PAPER, "head"),
)


def quoted_of_pair(config: dict) -> list[Quoted]:
    """Return the published figures for a run's data, labels and networks; without a teacher, for its student."""
    data = None if config.get("more_teachers") else _data(config)
    return [
        quoted
        for quoted in PUBLISHED
        if (quoted.data, quoted.student) == (data, config["student"]) and config["teacher"] in (quoted.teacher, None)
    ]


def quoted_of(config: dict, output: str) -> Quoted | None:
    """Return the published figure for a run's method and output, with the number of epochs nearest to the run's."""
    figures = [
        quoted
        for quoted in quoted_of_pair(config)
        if (quoted.method, quoted.output) == (config["method"], output.removeprefix(AVERAGED))
    ]
    return min(figures, key=lambda quoted: abs((quoted.epochs or 0) - config["epochs"]), default=None)


def _data(config: dict) -> str | None:
    """Return the name of a run's training data in `PUBLISHED`; None if nothing was published for its settings."""
    name, unlabeled = data_name(config["dataset"]), config["unlabeled"]
    if unlabeled != (name == "cc3m") or any(config.get(setting) not in (None, 0, 1) for setting in UNPUBLISHED):
        return None
    if config.get("train_list"):
        return "imagenet_lt" if "ImageNet_LT" in Path(config["train_list"]).name else None
    return name
