"""The flags of this family, with its own defaults. The paper's CIFAR protocol stands in the scripts of sh/."""

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
                "unlabeled_dir", self.unlabeled_dir, "has no labels; train without them: `unlabeled=True`"
            )
        for name, idle in (("imbalance", 1), ("holdout", 0)):
            if getattr(self, name) != idle:
                reason = f"chooses images that `unlabeled_dir` {self.unlabeled_dir} replaces; leave one out"
                raise InvalidSetting(name, getattr(self, name), reason)
