"""What the training loop and the evaluation ask of a data set; each tree has its own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gendd.evaluation import Batches
from gendd.randomness import StepRandom


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
        labeled: whether its training images have labels.
        details: how its images are chosen and changed, for the plan.
    """

    num_classes: int | None
    missing: tuple[str, ...] = ()
    labeled: bool = True
    details: str = ""


class Data(Protocol):
    """Images in the student's normalization, (B, 3, H, W) float32, and labels, on the process's device.

    Labels are classes (B,), in training -1 where they are not known, or also probabilities (B, C).
    """

    num_classes: int
    # Name of each class, None where it is not known.
    class_names: tuple[str | None, ...]
    image_size: int
    train_size: int
    eval_size: int
    # Such as "test", or "validation" for a part held out of the training set.
    eval_split: str
    # Groups of classes to be reported apart, each (C,) bool; none unless the training set is long-tailed.
    class_groups: dict[str, Tensor]
    # Training images that this process could not read, and passed over, so far.
    broken_images: int
    # How many files and folders of each kind beside the images were passed over, as `gendd.listing` counts them.
    passed_over: Counter[str]
    steps_per_epoch: int

    def train_batches(self, steps: range) -> Iterator[Batch]:
        """This process's augmented micro-batches of these steps, in order."""

    # For a teacher cache: each image then has a few views, drawn once, which the passes show in turn. A view of an
    # image follows from the view's number and the image's, whatever the run's seed and the batch it comes in.

    def view_settings(self) -> dict:
        """What views show: which images, and how they are changed. As JSON knows it."""

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        """For each number of a view and numbers of images: these images (B, 3, H, W) in that view."""

    def eval_batches(self, limit: int = 0) -> Batches:
        """This process's share of the evaluation images (the first `limit` of a fixed order; 0: all), each once."""


def identity(data: Data) -> dict:
    """What tells a data set from others, as JSON gives it back."""
    sizes = {"training images": data.train_size, "evaluation images": data.eval_size}
    return {"classes": list(data.class_names), **sizes}


def class_difference(ours: Sequence[str | None], theirs: Sequence[str | None]) -> str:
    """How class names differ, in words; none where they agree as far as they are known."""
    if len(ours) == len(theirs) and all(None in pair or pair[0] == pair[1] for pair in zip(ours, theirs, strict=True)):
        return ""
    differing = sorted(({*ours} ^ {*theirs}) - {None})
    return f"only in one of them: {', '.join(differing[:5])}" if differing else "their order or number differs"
