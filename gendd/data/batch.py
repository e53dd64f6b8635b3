"""What the training loop and the evaluation ask of a data set; each family has its own."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.core.seeding import StepRandom

# The split that is a part of the training images.
HELD_OUT = "held-out"

# (number of the batch, images, their labels, one or several each): the same however many processes share them.
Batches = Iterable[tuple[int, Tensor, Tensor]]


@dataclass(frozen=True)
class Batch:
    """A micro-batch of training images.

    Args:
        images: (B, 3, H, W) float32 in the student's normalization.
        labels: classes (B,), -1 where they are not known, or probabilities (B, C).
        random: the micro-batch's random numbers.
        epoch: counted from 1.
        indices: (B,) numbers of the images in the training set, on the CPU; None where they have none (shards).
        view: number of the view that shows them, where each image has a few that were drawn once.
    """

    images: Tensor
    labels: Tensor
    random: StepRandom
    epoch: int = 1
    indices: Tensor | None = None
    view: int = 0


@dataclass(frozen=True)
class DataSummary:
    """What is known of a data set before it is read.

    Args:
        num_classes: None if unknown.
        missing: what is not there, and where to get it, a line each.
        fetched: whether a training fetches it.
        labeled: whether its training images have labels.
        details: how its images are chosen and changed, for the plan.
    """

    num_classes: int | None
    missing: tuple[str, ...] = ()
    fetched: bool = False
    labeled: bool = True
    details: str = ""


class TrainingData(Protocol):
    """Images to train on, in the student's normalization, (B, 3, H, W) float32, on the process's device.

    Labels are classes (B,), -1 where they are not known, or also probabilities (B, C).
    """

    # Name of each class, None where it is not known; none of images without labels.
    class_names: tuple[str | None, ...]
    # Images (C,) of each class, with all labels that there are; None without labels.
    class_sizes: Tensor | None
    size: int
    steps_per_epoch: int
    # Images that this process could not read, and passed over, so far.
    broken_images: int
    # How many files and folders of each kind beside the images were passed over, as `image_files` counts them.
    passed_over: Counter[str]

    def batches(self, steps: range) -> Iterator[Batch]:
        """This process's augmented micro-batches of these steps, in order."""

    # For a teacher cache: each image then has a few views, drawn once, which the passes show in turn. A view of an
    # image follows from the view's number and the image's, whatever the run's seed and the batch it comes in.

    def view_settings(self) -> dict:
        """What views show: which images, and how they are changed. As JSON knows it."""

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        """Yield the images of each (view, indices) pair, (B, 3, H, W)."""


class EvaluationData(Protocol):
    """Images to evaluate on, in the student's normalization, (B, 3, H, W) float32, and their classes (B,)."""

    # None of images without labels.
    class_names: tuple[str | None, ...]
    image_size: int
    size: int
    # The data set, as it is named on the command line.
    dataset: str
    # Such as "test", or HELD_OUT.
    split: str
    normalize: "Normalize"
    # How an image file is brought to `image_size`, in timm's words: interpolation, crop_pct, crop_mode.
    geometry: dict[str, Any]
    # Of images that are not of the training set's folders.
    passed_over: Counter[str]

    def batches(self, limit: int = 0) -> Batches:
        """This process's share of the images (the first `limit` of a fixed order; 0: all), each once."""


class Normalize:
    """uint8 images (B, 3, H, W) to float32 in a network's normalization, channels last.

    Args:
        mean, std: in [0, 1] units.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device):
        center, spread = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * spread), -center / spread

    @classmethod
    def of(cls, network: nn.Module, device: torch.device) -> "Normalize":
        """What a network states of its images."""
        return cls(network.pretrained_cfg["mean"], network.pretrained_cfg["std"], device)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.to(memory_format=torch.channels_last).float(), self.scale)


def described(data: EvaluationData) -> str:
    """Return which images these are, such as "the test split of digits"."""
    if data.split == HELD_OUT:
        return f"the training images held out of {data.dataset}"
    return data.dataset if Path(data.dataset).name == data.split else f"the {data.split} split of {data.dataset}"


def identity(training: TrainingData, evaluation: EvaluationData) -> dict:
    """What tells a run's data from others, and how long-tailed it is, as JSON gives it back."""
    sizes = {"training images": training.size, "evaluation images": evaluation.size}
    of_classes = None if training.class_sizes is None else training.class_sizes.tolist()
    return {"classes": list(evaluation.class_names), **sizes, "training images of each class": of_classes}


def refuse_other_classes(dataset: str, training: Sequence[str | None], evaluation: Sequence[str | None]) -> None:
    """Refuse training images of other classes than those to evaluate on, or of the same in another order.

    Of classes that are not known by name, the evaluation must at least have as many: a network is built for those.
    Images without labels have no classes.

    Raises:
        UserError: it names what differs.
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
    """How class names differ, in words; none where they agree as far as they are known.

    Folders called 0 to C - 1, as ImageNet-V2's are, fit any names.
    """
    numbers = [str(number) for number in range(len(ours))]
    if len(ours) == len(theirs) and numbers in ([*ours], [*theirs]):
        return ""
    if len(ours) == len(theirs) and all(None in pair or pair[0] == pair[1] for pair in zip(ours, theirs, strict=True)):
        return ""
    differing = sorted(name for name in {*ours} ^ {*theirs} if name is not None)
    return f"only in one of them: {', '.join(differing[:5])}" if differing else "their order or number differs"
