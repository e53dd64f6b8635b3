"""The flags and defaults for small images. The scripts of sh/ hold the paper's CIFAR protocol."""

from dataclasses import dataclass
from typing import Annotated

from gendd.config import Data
from gendd.core.errors import InvalidSetting
from gendd.core.ranges import PixelCount, Range, Share


@dataclass(frozen=True)
class SmallImages(Data):
    """The images and their labels."""

    dataset: str = "cifar100"
    """Data set: digits, cifar10, cifar100, or a folder with train/<class>/ and test/<class>/."""
    unlabeled_dir: str | None = None
    """Folder of images to train on without labels. --dataset then gives only the classes and the test images."""
    imbalance: Annotated[float, Range(0, 1, above=True, remedy="1 leaves the training set as it is")] = 1.0
    """Long-tailed training set: size of the last class relative to the first, exponential between. 1 keeps all."""
    image_size: PixelCount = 32
    """Image size, in pixels. Other images are resized once, when they are read."""
    crop_padding: Annotated[int, Range(0, 10_000)] = 4
    """Black padding in pixels before a random crop of the image's size. 0 turns cropping off."""
    hflip: Share = 0.5
    """Probability of a horizontal flip."""

    choices = (*Data.choices, "unlabeled_dir", "imbalance")

    def check_training_images(self) -> None:
        super().check_training_images()
        if self.unlabeled_dir is None:
            return
        if not self.unlabeled:
            raise InvalidSetting(
                "unlabeled_dir", self.unlabeled_dir, "its images are unlabeled; train without labels: `unlabeled=True`"
            )
        for name, idle in (("imbalance", 1), ("holdout", 0)):
            if getattr(self, name) != idle:
                reason = f"selects training images, but `unlabeled_dir` {self.unlabeled_dir} replaces them; drop one"
                raise InvalidSetting(name, getattr(self, name), reason)
