"""Small folders of JPEGs as photographs, and helpers to read and compare them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from lines import refuses
from PIL import Image
from programs import imagenet_config

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Normalize
from gendd_imagenet.data import EvaluationPhotos, TrainingPhotos, open_evaluation

CLASSES = ("n01", "n02", "n03")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
NORMALIZE = Normalize(MEAN, STD, ALONE.device)


def write_images(folder: Path, count: int, first: int = 0) -> None:
    """Write images of several sizes, brightest in the color channel of the folder's class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        random = np.random.default_rng([number, *folder.name.encode()])
        height, width = random.integers(40, 90, 2)
        pixels = random.integers(0, 120, (height, width, 3))
        pixels[..., CLASSES.index(folder.name)] += 100
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{folder.name}_{number}.JPEG", quality=95)


def write_photos(root: Path) -> Path:
    """Write photographs in ImageNet's layout: 3 classes with 30 images each in train/ and 7 each in val/."""
    for name in CLASSES:
        write_images(root / "train" / name, 30)
        write_images(root / "val" / name, 7, first=1000)
    return root


def config(dataset, **settings) -> Config:
    settings = {"student": "resnet18", "image-size": 32, "workers": 0, "dataset": dataset, **settings}
    arguments = []
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return imagenet_config(*(word for word in arguments if word != "True"))


def open_photos(
    config: Config,
    batch: int = 8,
    rank: int = 0,
    world: int = 1,
    grad_accum_steps: int = 1,
    labeled_only: bool = False,
) -> TrainingPhotos:
    """Open training photographs."""
    plan = BatchPlan(0, batch, rank, world, grad_accum_steps)
    return TrainingPhotos(config, 0 if config.data.images else len(CLASSES), plan, ALONE, NORMALIZE, labeled_only)


def open_evaluated(config: Config, rank: int = 0, world: int = 1, of_training: bool = False) -> EvaluationPhotos:
    network = SimpleNamespace(pretrained_cfg={"mean": MEAN, "std": STD})
    return open_evaluation(config, BatchPlan(0, 1, rank, world), ALONE, network, of_training)


def images_and_labels(data: TrainingPhotos, steps: range) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(batch.images, batch.labels) for batch in data.batches(steps)]


def assert_same(batches, expected_batches) -> None:
    for (images, labels), (expected, expected_labels) in zip(batches, expected_batches, strict=True):
        torch.testing.assert_close(images, expected, rtol=0, atol=0)
        torch.testing.assert_close(labels, expected_labels, rtol=0, atol=0)


def refusal(function, *arguments) -> str:
    with refuses() as caught:
        function(*arguments)
    assert len(caught.value.splitlines()) == 1
    return caught.value
