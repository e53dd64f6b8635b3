"""What the training loop and the evaluation ask of a data set; each tree has its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gendd.evaluation import Batches
from gendd.randomness import StepRandom


@dataclass(frozen=True)
class DataSummary:
    """What is known of a data set before it is read: its classes (None if unknown), and what is missing of it."""

    num_classes: int | None
    missing: str | None = None


class Data(Protocol):
    """Images in the student's normalisation, (B, 3, H, W) float32, and labels (B,), on the process's device."""

    num_classes: int
    image_size: int
    train_size: int
    eval_size: int
    # "test", or "validation" for a part held out of the training set.
    eval_split: str
    steps_per_epoch: int

    def train_batches(self, steps: range) -> Iterator[tuple[StepRandom, Tensor, Tensor]]:
        """This process's augmented parts of the global batches of these steps, in order."""

    def eval_batches(self, limit: int = 0) -> Batches:
        """This process's share of the evaluation images (the first `limit` of a fixed order; 0: all), each once."""
