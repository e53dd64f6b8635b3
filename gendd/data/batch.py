"""Interfaces of training and evaluation data. Each family implements them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.core.seeding import StepRandom

# Name of the split that is held out of the training images.
HELD_OUT = "held-out"

# (batch number, images, labels: one or several per image, or the teacher's stored features (B, D_t), float32). The
# batches do not depend on the number of processes.
Batches = Iterable[tuple[int, Tensor, Tensor]]


@dataclass(frozen=True)
class Batch:
    """A micro-batch of training images.

    Args:
        images: (B, 3, H, W) float32 in the student's normalization.
        labels: classes (B,), -1 where unknown, or probabilities (B, C).
        random: the micro-batch's random numbers.
        epoch: counted from 1.
        indices: (B,) indices of the images in the training set, on the CPU; None for images of shards.
        view: number of the augmentation view, if each image has a fixed number of views.
        outputs: the teacher's outputs (B, D_t + L D_m), if they are stored with the images.
    """

    images: Tensor
    labels: Tensor
    random: StepRandom
    epoch: int = 1
    indices: Tensor | None = None
    view: int = 0
    outputs: Tensor | None = None


@dataclass(frozen=True)
class DataSummary:
    """Facts about a data set that are known before its images are read.

    Args:
        num_classes: None if unknown.
        missing: the missing files and where to get them, one line each.
        fetched: whether a training downloads the data set.
        labeled: whether its training images have labels.
        details: how its images are selected and transformed, for the plan.
    """

    num_classes: int | None
    missing: tuple[str, ...] = ()
    fetched: bool = False
    labeled: bool = True
    details: str = ""


class TrainingData(Protocol):
    """Images to train on, in the student's normalization, (B, 3, H, W) float32, on the process's device.

    Labels are classes (B,), -1 where unknown, or probabilities (B, C).
    """

    # Name of each class, None where unknown; empty for images without labels.
    class_names: tuple[str | None, ...]
    # Number of images (C,) per class, by all known labels; None without labels.
    class_sizes: Tensor | None
    size: int
    steps_per_epoch: int
    # Number of images that this process has skipped so far because it could not read them.
    broken_images: int
    # Number of skipped files and folders of each kind, as `image_files` counts them.
    passed_over: Counter[str]

    def checksum(self) -> str | None:
        """Return a checksum of the names and sizes of the images' files; None without files."""

    def contents(self) -> str | None:
        """Return a checksum of the contents of some of these files; None without files."""

    def batches(self, steps: range) -> Iterator[Batch]:
        """Yield this process's augmented micro-batches of these steps, in order."""

    # With a teacher cache, each image has a fixed number of views, which the epochs use in turn. A view depends on its
    # number and on the image's index, not on the run's seed or the batch.

    def view_settings(self) -> dict:
        """Return the settings that determine the views (images and augmentation), as JSON values."""

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        """Yield the images of each (view, indices) pair, (B, 3, H, W)."""


class EvaluationData(Protocol):
    """Images to evaluate on, in the student's normalization, (B, 3, H, W) float32, and their classes (B,)."""

    # Empty for images without labels.
    class_names: tuple[str | None, ...]
    image_size: int
    size: int
    # The data set's name on the command line.
    dataset: str
    # For example "test", or HELD_OUT.
    split: str
    normalize: "Normalize"
    # Number of skipped files of each kind, if the images come from other folders than the training images.
    passed_over: Counter[str]

    def checksum(self) -> str | None:
        """Return a checksum of the names and sizes of the images' files; None without files."""

    def batches(self, limit: int = 0) -> Batches:
        """Return this process's share of the first `limit` images (0: all) in a fixed order, each image once."""


class Normalize:
    """Conversion of uint8 images (B, 3, H, W) to float32 in a network's normalization, channels last.

    Args:
        mean, std: in [0, 1] units.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device):
        center, spread = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * spread), -center / spread

    @classmethod
    def of(cls, network: nn.Module, device: torch.device) -> "Normalize":
        """Return the normalization that a network's `pretrained_cfg` states."""
        return cls(network.pretrained_cfg["mean"], network.pretrained_cfg["std"], device)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.to(memory_format=torch.channels_last).float(), self.scale)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Move values to the device, without waiting for a GPU to finish its work."""
    to_gpu = device.type == "cuda"
    values = values.pin_memory() if to_gpu and values.device.type == "cpu" else values
    return values.to(device, non_blocking=to_gpu)


def described(data: EvaluationData) -> str:
    """Return a description of the images, such as "the test split of digits"."""
    if data.split == HELD_OUT:
        return f"the training images held out of {data.dataset}"
    return data.dataset if Path(data.dataset).name == data.split else f"the {data.split} split of {data.dataset}"


class AsTheyAre(nn.Module):
    """A network in place of the student's, for images that no network will see."""

    pretrained_cfg = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


def identity(training: TrainingData, evaluation: EvaluationData) -> dict:
    """Return class names, sizes, images per class and checksums as JSON values, to recognize a run's data."""
    sizes = {"training images": training.size, "evaluation images": evaluation.size}
    files = {"training files": training.checksum(), "evaluation files": evaluation.checksum()}
    of_classes = None if training.class_sizes is None else training.class_sizes.tolist()
    return {
        "classes": list(evaluation.class_names),
        **sizes,
        **files,
        "training contents": training.contents(),
        "training images of each class": of_classes,
    }


def refuse_other_classes(dataset: str, training: Sequence[str | None], evaluation: Sequence[str | None]) -> None:
    """Check that the training and the evaluation images have the same classes in the same order.

    If the class names are unknown, the evaluation images need at least as many classes as the training images: the
    network is built for their number. Training images without labels always pass.

    Raises:
        UserError: the classes differ; the message names the differences.
    """
    unknown = len(training) <= len(evaluation) and all(name is None for name in evaluation[len(training) :])
    difference = class_difference(training, evaluation[: len(training)] if unknown else evaluation)
    if training and difference:
        raise InvalidSetting(
            "dataset",
            dataset,
            f"{len(training)} classes to train on, {len(evaluation)} to evaluate on; "
            f"{difference}; give both the same class folders",
        )


def class_difference(ours: Sequence[str | None], theirs: Sequence[str | None]) -> str:
    """Return how class names differ, or "" if all known names agree.

    The names 0 to C - 1, as in ImageNet-V2, match any C names, except the same numbers in another order.
    """
    numbers = [str(number) for number in range(len(ours))]
    if len(ours) == len(theirs) and numbers in ([*ours], [*theirs]) and {*ours} != {*theirs}:
        return ""
    if len(ours) == len(theirs) and all(None in pair or pair[0] == pair[1] for pair in zip(ours, theirs, strict=True)):
        return ""
    differing = sorted(name for name in {*ours} ^ {*theirs} if name is not None)
    return f"only in one of them: {', '.join(differing[:5])}" if differing else "their order or number differs"
