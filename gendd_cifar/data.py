"""Small images: the whole set lives on the device as uint8 and is augmented a batch at a time.

Shapes: N images of a set, B of a batch, S pixels a side.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting
from gendd.core.seeding import BatchPlan, Shuffled, StepRandom, generator
from gendd.data.batch import HELD_OUT, Batch, Batches, Normalize
from gendd_cifar.config import SmallImages
from gendd_cifar.sources import Source, read_source, read_unlabeled

# Small enough for a core's caches: 500 took a sixth longer per image (resnet20, bf16, one thread).
EVAL_BATCH = 250
# How `gendd_cifar.sources` brings a file to the size of the images: its whole center square.
WHOLE_SQUARE = {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}


def open_training(
    config: Config[SmallImages],
    num_classes: int,
    plan: BatchPlan,
    world: World,
    network: nn.Module,
    labeled_only: bool = False,
) -> "TrainingImages":
    """Read the images to train on onto the device, normalized as the network wants them.

    Args:
        labeled_only: leave out images without labels; otherwise they come with label -1.
    """
    source = _read(config, "train", world)
    images = source.images
    if config.data.holdout:
        images, _ = images.hold_out(config.data.holdout)
    images = images.long_tailed(config.data.imbalance)
    # The sizes of a data set's classes are the same for all methods: they are of all its training images.
    sizes = images.class_counts(num_classes) if source.class_names else None
    if config.data.label_fraction < 1:
        images = images.partly_labeled(config.data.label_fraction, labeled_only)
    source, normalize = replace(source, images=images), Normalize.of(network, world.device)
    return TrainingImages(
        source, plan, normalize, world.device, config.data.crop_padding, config.data.hflip, config.views, sizes
    )


def open_evaluation(
    config: Config[SmallImages], plan: BatchPlan, world: World, network: nn.Module, of_training: bool = False
) -> "EvaluationImages":
    """Read the images to evaluate on onto the device, normalized as the network wants them.

    Args:
        of_training: those to train on in their place, as they are.
    """
    normalize = Normalize.of(network, world.device)
    if of_training:
        source = replace(_read(config, "train", world), passed_over=Counter())
        if config.data.holdout:
            source = replace(source, images=source.images.hold_out(config.data.holdout)[0])
        dataset = config.data.unlabeled_dir or config.data.dataset
        return EvaluationImages(source, dataset, "train", plan, normalize, world.device)
    if not config.data.holdout:
        source = _read(config, "test", world)
        return EvaluationImages(source, config.data.dataset, "test", plan, normalize, world.device)
    source = _read(config, "train", world)
    _, held = source.images.hold_out(config.data.holdout)
    # What was passed over is told of the training images.
    source = replace(source, images=held, passed_over=Counter())
    return EvaluationImages(source, config.data.dataset, HELD_OUT, plan, normalize, world.device)


def _read(config: Config[SmallImages], split: str, world: World) -> Source:
    size = None if config.run.dry_run else config.data.image_size
    # A dry run downloads nothing, so that none need wait.
    with contextlib.nullcontext() if config.run.dry_run else world.local_first():
        if split == "train" and config.data.unlabeled_dir:
            return read_unlabeled(config.data.unlabeled_dir, size)
        return read_source(config.data.dataset, config.data.data_root, split, size)


class TrainingImages:
    """A source as the training loop wants it (`TrainingData`). All images are read at once: none is passed over.

    Args:
        plan: how the global batch is divided.
        cached_views: views per image that the epochs show in turn; 0: each time a new one.
        class_sizes: (C,), None of images without labels.
    """

    broken_images = 0

    def __init__(
        self,
        source: Source,
        plan: BatchPlan,
        normalize: Normalize,
        device: torch.device,
        crop_padding: int = 4,
        hflip: float = 0.5,
        cached_views: int = 0,
        class_sizes: Tensor | None = None,
    ):
        self.plan, self.normalize, self.device = plan, normalize, device
        self.crop_padding, self.hflip = crop_padding, hflip
        self.cached_views = cached_views
        self.drawn_view, self.drawn = -1, (torch.empty(0), torch.empty(0))
        self.class_names, self.class_sizes, self.passed_over = source.class_names, class_sizes, source.passed_over
        images, self.size = source.images.images, len(source.images)
        self.image_size, self.steps_per_epoch = images.shape[-1], self.size // plan.batch
        if not self.steps_per_epoch:
            raise InvalidSetting("batch_size", plan.batch, f"more than the {self.size} training images; lower it")
        padded = torch.nn.functional.pad(images, (crop_padding,) * 4)
        self.images, self.labels = padded.to(device), source.images.labels.to(device)
        self.order = Shuffled(self.size)

    def batches(self, steps: range) -> Iterator[Batch]:
        for step in steps:
            for random in self.plan.micro_batches(step):
                yield self.batch(random)

    def batch(self, random: StepRandom) -> Batch:
        """The images of a micro-batch, cropped, flipped and normalized, and their labels."""
        number, indices = self.order.locate(random)
        view = number % self.cached_views if self.cached_views else 0
        if self.cached_views:
            images = self.view(view, indices)
        else:
            corner, flipped = self.draw(random.generator("augmentation", "cpu"), random.batch)
            images = self.augmented(indices, corner[:, random.rows], flipped[random.rows])
        return Batch(images, self.labels[indices.to(self.device)], random, number + 1, indices, view)

    def draw(self, noise: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Top and left of crops (2, count), and which are flipped (count,)."""
        corner = torch.randint(2 * self.crop_padding + 1, (2, count), generator=noise)
        return corner, torch.rand(count, generator=noise) < self.hflip

    def augmented(self, indices: Tensor, corner: Tensor, flipped: Tensor) -> Tensor:
        """Training images (B, 3, S, S) normalized, each with its crop (2, B) and flip (B,)."""
        # All crops of all images as a view (N, 3, 2P+1, 2P+1, S, S); the indices pick one crop per image.
        windows = self.images.unfold(2, self.image_size, 1).unfold(3, self.image_size, 1)
        top, left = corner.to(self.device)
        images = windows[indices.to(self.device), :, top, left]
        images = torch.where(flipped.to(self.device)[:, None, None, None], images.flip(-1), images)
        return self.normalize(images)

    def view(self, view: int, indices: Tensor) -> Tensor:
        """Training images (B, 3, S, S), normalized, in one of their cached views, which are the same for every seed."""
        if view != self.drawn_view:
            noise = generator("cpu", "cached view", view)
            self.drawn_view, self.drawn = view, self.draw(noise, self.size)
        corner, flipped = self.drawn
        return self.augmented(indices, corner[:, indices], flipped[indices])

    def view_settings(self) -> dict:
        padding = self.crop_padding
        images = self.images[:, :, padding : padding + self.image_size, padding : padding + self.image_size]
        return {
            "images": self.size,
            "images_sha256": hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest(),
            "image_size": self.image_size,
            "crop_padding": self.crop_padding,
            "hflip": self.hflip,
        }

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        for view, rows in batches:
            yield self.view(view, torch.arange(rows.start, rows.stop))


class EvaluationImages:
    """A source as the evaluation wants it (`gendd.data.batch.EvaluationData`)."""

    def __init__(
        self, source: Source, dataset: str, split: str, plan: BatchPlan, normalize: Normalize, device: torch.device
    ):
        self.plan, self.normalize, self.dataset, self.split = plan, normalize, dataset, split
        self.class_names, self.passed_over = source.class_names, source.passed_over
        self.geometry = WHOLE_SQUARE
        images = source.images.in_evaluation_order()
        self.size, self.image_size = len(images), images.images.shape[-1]
        self.images, self.labels = images.images.to(device), images.labels.to(device)

    def batches(self, limit: int = 0) -> Batches:
        size = min(limit or self.size, self.size)
        for number, first in enumerate(range(0, size, EVAL_BATCH)):
            if number % self.plan.world == self.plan.rank:
                rows = slice(first, min(first + EVAL_BATCH, size))
                yield number, self.normalize(self.images[rows]), self.labels[rows]
