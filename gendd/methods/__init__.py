"""Training methods, each a file that builds a `timm.task.TrainingTask`. This table is the one place that lists them."""

from collections.abc import Callable
from dataclasses import dataclass

from timm.task import TrainingTask

from gendd.errors import unknown_name
from gendd.methods import classification, finetune, gendd, kd, pretrain
from gendd.methods.base import Ingredients


@dataclass(frozen=True)
class Method:
    build: Callable[[Ingredients], TrainingTask]
    needs_teacher: bool = True
    # Whether it can do without any label (--unlabeled).
    unlabeled: bool = False
    # Whether feature mixup pairs images within a batch.
    mixes_features: bool = False


METHODS = {
    "classification": Method(classification.build, needs_teacher=False),
    "kd": Method(kd.build),
    "pretrain": Method(pretrain.build, unlabeled=True),
    "gendd": Method(gendd.build, unlabeled=True, mixes_features=True),
    "finetune": Method(finetune.build, unlabeled=True),
}


def get_method(name: str) -> Method:
    """Raises UserError with the nearest known names."""
    if name not in METHODS:
        raise unknown_name("--method", name, METHODS)
    return METHODS[name]
