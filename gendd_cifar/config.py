"""The flags of this tree. Defaults are the paper's CIFAR protocol."""

from dataclasses import dataclass

from gendd.config import TrainConfig


@dataclass(frozen=True)
class CifarTrainConfig(TrainConfig):
    """Train a network on small images: a teacher, a student alone, or a student from a teacher."""

    dataset: str = "cifar100"
    """digits, cifar10, cifar100, or a folder with train/<class>/ and test/<class>/."""
    image_size: int = 32
    """Side of the images; others are resized once, when they are read."""
    crop_padding: int = 4
    """Black pixels around an image before a random crop of its size; 0 turns cropping off."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""
