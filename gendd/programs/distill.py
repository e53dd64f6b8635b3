"""Distillation from Python: `gendd.distill`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gendd.core.errors import InvalidSetting, naming
from gendd.core.ranges import fits
from gendd.data.decode import ENDINGS
from gendd.family import Family, family_named
from gendd.methods import get_method
from gendd.methods.gendd import TargetOptions
from gendd.network_settings import TeacherNetwork
from gendd.own import access, given
from gendd.own.access import Given, count_images, split
from gendd.own.network import Network, check_learns, has_classifier
from gendd.programs.train import train_config
from gendd.runs.experiment import Experiment

SMALL_IMAGES = ("digits", "cifar10", "cifar100")
# Optimizer and schedule of sh/distill_folder.sh.
RECIPE: dict[str, Any] = {
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 2e-2,
    "schedule": "cosine",
    "warmup_epochs": 5,
    "eval_every": 5,
}
# Its further values for methods with gendd's targets.
TARGETS: dict[str, Any] = {"feature_mixup": 0}
FOLDER: dict[str, Any] = {"image_size": 224, "crop_scale": (0.2, 1.0)}
LARGEST_BATCH, SMALLEST_BATCH, LEAST_STEPS = 256, 8, 10


def distill(
    teacher: str | nn.Module | Network | Sequence[str | nn.Module | Network],
    student: str | nn.Module | Network,
    data: str | Path | Iterable[Any],
    epochs: int = 100,
    out: str | Path | None = None,
    *,
    method: str = "gendd",
    evaluation: Iterable[Any] | None = None,
    classes: int | Sequence[str] = 0,
    **options: Any,
) -> Experiment:
    """Train a student to generate a teacher's features, in this process. The same call resumes a stopped run.

    Optimizer and schedule are those of `sh/distill_folder.sh`; GenDD is described in arXiv 2507.14503.

    Args:
        teacher, student: name of a network (docs/networks.md), a module with timm's interface, or a `Network`. A given
            student is trained in place; a given teacher is copied. A list has several teachers: all but the first are
            names.
        data: a folder of images, which needs no labels; a data set's name (docs/networks.md), with its labels; or an
            iterable of batches, such as a DataLoader. A batch is images (B, 3, S, S), float, in the student's
            normalization, or a pair of images and labels (B,). A run on batches starts an epoch anew when it resumes
            and is not reproducible beyond the order of its batches.
        out: run folder. runs/<data>/<teacher>_<student>/<name>/<seed> if not given.
        method: name of the method, or package.module:Class.
        evaluation: batches to evaluate on, for given batches. If not given, the first training batches, up to the one
            that reaches 1,000 images.
        classes: number or names of the classes of labeled batches; 0 for batches without labels.
        options: values of fields of the configuration (docs/flags.md), such as lr=1e-3.

    Returns:
        The trained run.

    Raises:
        InvalidSetting: a value cannot work; it holds the field, the value and the reason.
        UserError: the data or the weights cannot be used.
    """
    if not isinstance(method, str):
        raise InvalidSetting("method", repr(method), "give a method's name, or package.module:Class for your own")
    with naming("method"):
        kind = get_method(method)()
    batches = None
    if isinstance(data, str | Path):
        _refuse_of_batches(data, evaluation=evaluation, classes=classes or None)
        family, values = _named(str(data))
    elif isinstance(data, Iterable):
        class_names, images = _class_names(classes), _first_images(data)
        batches = Given(data, evaluation, class_names, (float(images.min()), float(images.max())))
        family, values = _batches(batches, images.shape[-1], options)
    else:
        raise InvalidSetting("data", repr(data), "give a folder, a name, or batches of images")
    recipe = RECIPE | (TARGETS if isinstance(kind, TargetOptions) else {})
    config = family.config(kind, **recipe | values | options, epochs=epochs, out=out)
    if isinstance(teacher, (list, tuple)) and not teacher:
        raise InvalidSetting("teacher", None, "the list of teachers is empty; name one")
    first, *further = teacher if isinstance(teacher, (list, tuple)) else [teacher]
    roles: dict[str, Any] = {"student": student, "teacher": first}
    own = {role: network for role, network in roles.items() if not isinstance(network, str)}
    if "teacher" in own and not has_classifier(own["teacher"]):
        config = config.changed(teacher_classifier=False)
    with access.registered(batches), given.networks(config.data.image_size, **own) as names:
        if "student" in own:
            check_learns(own["student"], config.data.image_size)
        if further:
            config = config.changed(more_teachers=_further(further))
        config = config.changed(**roles | names).resolved()
        if "contraction" not in options and (config.data.unlabeled or not config.networks.teacher_classifier):
            config = dataclasses.replace(config, method=config.method.without_labels())
        return train_config(config)


def _further(names: Iterable[Any]) -> tuple[TeacherNetwork, ...]:
    """Return the teachers after the first one.

    Raises:
        InvalidSetting: one is not a name.
    """
    for name in names:
        if not isinstance(name, str):
            reason = "only the first of several teachers can be a Python object; put it first, and name the others"
            raise InvalidSetting("teacher", type(name).__name__, reason)
    return tuple(map(TeacherNetwork, names))


def _named(data: str) -> tuple[Family, dict[str, Any]]:
    """Return the family of a folder or of a data set's name, and the settings that follow from it."""
    if data in SMALL_IMAGES:
        return family_named("gendd_cifar"), {"dataset": data}
    family = family_named("gendd_imagenet")
    if not Path(data).is_dir() or Path(data, "train").is_dir():
        return family, FOLDER | {"dataset": data, "batch_size": LARGEST_BATCH}
    count = sum(path.suffix.lower() in ENDINGS for path in Path(data).rglob("*"))
    return family, FOLDER | {"images": data, "batch_size": batch_size(count)}


def _first_images(batches: Iterable[Any]) -> Tensor:
    """Return the images (B, 3, S, S) of the first batch."""
    first = next(iter(batches), None)
    images = None if first is None else split(first)[0]
    if images is None or not len(images):
        raise InvalidSetting("data", "", "yields no batch; give batches of images")
    if images.shape[2] != images.shape[3]:
        raise InvalidSetting("data", "", f"the images of a batch are {tuple(images.shape[2:])}; give square images")
    return images


def _batches(batches: Given, side: int, options: Mapping[str, Any]) -> tuple[Family, dict[str, Any]]:
    """Return the family of given batches of images SxS, and the settings that follow from them."""
    number, steps = len(batches.class_names), options.get("steps_per_epoch", 0)
    count = count_images(batches.training) or steps * LARGEST_BATCH
    values = {"image_size": side, "num_classes": number, "unlabeled": not number}
    return family_named("gendd.own"), values | {"batch_size": batch_size(count), "teacher_classifier": bool(number)}


def _refuse_of_batches(data: str | Path, **values: object) -> None:
    """Raise InvalidSetting for an argument that only belongs to given batches."""
    for name, value in values.items():
        if value is not None:
            raise InvalidSetting(name, "", f"belongs to batches, but `data` {data} is a name or a folder; leave it out")


def _class_names(classes: int | Sequence[str]) -> tuple[str | None, ...]:
    if isinstance(classes, int) and fits(classes, int) and classes >= 0:
        return (None,) * classes
    # Not a set, whose order changes.
    if isinstance(classes, list | tuple) and fits(classes, tuple[str, ...]):
        if len(set(classes)) < len(classes):
            raise InvalidSetting("classes", repr(classes), "holds a name twice; give each class its own")
        return tuple(classes)
    raise InvalidSetting("classes", repr(classes), "give the number of classes, or a list of their names")


def batch_size(images: int) -> int:
    """Return a power of two from 8 to 256 that gives at least ten steps per epoch, with a tenth of images held out."""
    size = LARGEST_BATCH
    while size > SMALLEST_BATCH and size * LEAST_STEPS > images * 9 / 10:
        size //= 2
    return size
