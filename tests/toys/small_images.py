"""What tests of small images share: folders, configurations, data of numbered images, and refusals in one line."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from programs import cifar_config

from gendd.errors import UserError
from gendd.randomness import BatchPlan
from gendd_cifar.data import ImageData
from gendd_cifar.sources import Images, Source

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def write_folder(root: Path, classes=("a", "b"), train: int = 8, test: int = 2) -> Path:
    """A folder of data: so many images of each class."""
    for split, count in (("train", train), ("test", test)):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(count):
                Image.new("RGB", (8, 8), (120 * number, image, 0)).save(folder / f"{image}.png")
    return root


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message.startswith("--") and len(message.splitlines()) == 1
    return message


def config(**settings):
    arguments = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return cifar_config("--student", "resnet8", *arguments)


def numbered(count, side=6, classes=None):
    """Random images whose labels are their places, or sorted classes."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count)
    return Images(images, labels if classes is None else labels * classes // count)


def data(train=20, test=9, batch=6, seed=0, rank=0, world=1, grad_accum_steps=1, source=None, **options):
    source = source or Source(numbered(train), numbered(test), (None,) * train)
    return ImageData(
        source, BatchPlan(seed, batch, rank, world, grad_accum_steps), torch.device("cpu"), MEAN, STD, **options
    )
