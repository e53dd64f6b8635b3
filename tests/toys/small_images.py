"""Helpers for tests of small images: folders, configurations, numbered images and one-line errors."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from lines import refuses
from PIL import Image
from programs import cifar_config

import gendd_cifar.data
from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Normalize
from gendd_cifar.data import EvaluationImages, TrainingImages
from gendd_cifar.sources import Images, Source

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def write_folder(root: Path, classes=("a", "b"), train: int = 8, test: int = 2) -> Path:
    """Write a data set with `train` and `test` images per class."""
    for split, count in (("train", train), ("test", test)):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(count):
                Image.new("RGB", (8, 8), (120 * number, image, 0)).save(folder / f"{image}.png")
    return root


def refusal(function, *arguments, **options):
    with refuses() as caught:
        function(*arguments, **options)
    message = caught.value
    assert message.startswith("--") and len(message.splitlines()) == 1
    return message


def config(**settings):
    arguments = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return cifar_config("--student", "resnet8", *arguments)


def numbered(count, side=6, classes=None):
    """Return random images; their labels are their indices or, with `classes`, sorted classes."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count)
    return Images(images, labels if classes is None else labels * classes // count)


CPU = torch.device("cpu")
NORMALIZE = Normalize(MEAN, STD, CPU)


def training(images=20, batch=6, seed=0, rank=0, world=1, grad_accum_steps=1, **options) -> TrainingImages:
    """Return training data of the given images, or of this number of numbered images."""
    images = numbered(images) if isinstance(images, int) else images
    plan = BatchPlan(seed, batch, rank, world, grad_accum_steps)
    return TrainingImages(Source(images, (None,) * len(images)), plan, NORMALIZE, CPU, **options)


def evaluation(images=9, rank=0, world=1) -> EvaluationImages:
    images = numbered(images) if isinstance(images, int) else images
    source = Source(images, (None,) * len(images))
    return EvaluationImages(source, "numbered", "test", BatchPlan(0, 1, rank, world), NORMALIZE, CPU)


def opened(train, test=None, batch=6, seed=0, labeled_only=False, **flags) -> tuple[TrainingImages, EvaluationImages]:
    """Open the training and evaluation data of a configuration, with these images as the data set."""
    sources = {"train": train, "test": numbered(9) if test is None else test}
    classes = int(train.labels.max()) + 1
    settings, plan, world = config(**flags), BatchPlan(seed, batch), World(0, 1, 0, CPU)
    network = SimpleNamespace(pretrained_cfg={"mean": MEAN, "std": STD})
    read = lambda dataset, data_root, split, image_size: Source(sources[split], (None,) * classes)  # noqa: E731
    with patch.object(gendd_cifar.data, "read_source", read):
        images = gendd_cifar.data.open_training(settings, classes, plan, world, network, labeled_only)
        return images, gendd_cifar.data.open_evaluation(settings, plan, world, network)
