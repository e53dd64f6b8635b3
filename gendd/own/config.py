"""The data part of a configuration for batches that the user gives."""

from dataclasses import dataclass
from typing import Any

from gendd.config import Config, Data
from gendd.core.errors import InvalidSetting
from gendd.core.ranges import CountOrNone


@dataclass(frozen=True)
class Batches(Data):
    """The images and their labels, from batches that are given as a Python object."""

    dataset: str = "batches"
    """Name of the data, for the run's folder."""
    num_classes: CountOrNone = 0
    """Number of classes of the labels. 0 for images without labels."""
    steps_per_epoch: CountOrNone = 0
    """Steps per epoch. 0 is one pass over the batches, if their number of images is known."""

    @property
    def geometry(self) -> dict[str, Any]:
        return {}

    def check(self, config: Config) -> None:
        super().check(config)
        if self.teacher_cache:
            reason = "given batches have no fixed views; leave it out, or name a folder of images"
            raise InvalidSetting("teacher_cache", self.teacher_cache, reason)
        if self.holdout:
            raise InvalidSetting("holdout", self.holdout, "given batches cannot be split; give evaluation batches")
        if self.label_fraction < 1:
            reason = "given batches keep all their labels; set it to 1"
            raise InvalidSetting("label_fraction", self.label_fraction, reason)
