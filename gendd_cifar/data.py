"""Small images: the whole set is kept on the device as uint8 and augmented batch by batch.

Shapes: N images in the set, B in a batch, S pixels per side.
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
from gendd.data.batch import HELD_OUT, Batch, Batches, Normalize, to_device
from gendd_cifar.config import SmallImages
from gendd_cifar.sources import Source, read_source, read_unlabeled

# Small enough for a core's caches: 500 took a sixth longer per image (resnet20, bf16, one thread).
EVAL_BATCH = 250


def open_training(
    config: Config[SmallImages],
    num_classes: int,
    plan: BatchPlan,
    world: World,
    network: nn.Module,
    labeled_only: bool = False,
) -> "TrainingImages":
    """Load the training images onto the device, with the network's normalization.

    Args:
        labeled_only: leave out images without labels. Otherwise their label is -1.
    """
    source = _read_training(config, world)
    images = source.images
    # Count before labels are removed, so that all methods get the same class sizes.
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
    """Load the evaluation images onto the device, with the network's normalization.

    Args:
        of_training: load the training images instead, without augmentation.
    """
    normalize = Normalize.of(network, world.device)
    if of_training:
        source = replace(_read_training(config, world), passed_over=Counter())
        dataset = config.data.unlabeled_dir or config.data.dataset
        return EvaluationImages(source, dataset, "train", plan, normalize, world.device)
    if not config.data.holdout:
        source = _read(config, "test", world)
        return EvaluationImages(source, config.data.dataset, "test", plan, normalize, world.device)
    source = _read(config, "train", world)
    _, held = source.images.hold_out(config.data.holdout)
    # The training images already report the skipped files.
    source = replace(source, images=held, passed_over=Counter())
    return EvaluationImages(source, config.data.dataset, HELD_OUT, plan, normalize, world.device)


def _read(config: Config[SmallImages], split: str, world: World) -> Source:
    size = None if config.run.dry_run else config.data.image_size
    # A dry run downloads nothing, so no process needs to wait.
    with contextlib.nullcontext() if config.run.dry_run else world.local_first():
        if split == "train" and config.data.unlabeled_dir:
            return read_unlabeled(config.data.unlabeled_dir, size)
        return read_source(config.data.dataset, config.data.data_root, split, size)


def _read_training(config: Config[SmallImages], world: World) -> Source:
    """Return the training images without those held out, and long-tailed if the configuration says so."""
    source = _read(config, "train", world)
    images = source.images.hold_out(config.data.holdout)[0] if config.data.holdout else source.images
    return replace(source, images=images.long_tailed(config.data.imbalance))


class TrainingImages:
    """Training images of a source (`TrainingData`), all in memory; broken images stop the run when it starts.

    Args:
        plan: division of the global batch.
        cached_views: number of cached views per image, which the epochs use in turn. 0: a new view each time.
        class_sizes: (C,) images per class, or None for images without labels.
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
        self.checksum, self.contents = source.checksum, source.contents
        images, self.size = source.images.images, len(source.images)
        self.image_size, self.steps_per_epoch = images.shape[-1], self.size // plan.batch
        if not self.steps_per_epoch:
            raise InvalidSetting("batch_size", plan.batch, f"more than the {self.size} training images; lower it")
        padded = torch.nn.functional.pad(images, (crop_padding,) * 4)
        # (N, S+2P, S+2P, 3): the values of a pixel are neighbors, so a crop is a selection of pixels.
        self.images, self.labels = padded.permute(0, 2, 3, 1).contiguous().to(device), source.images.labels.to(device)
        self.columns = torch.arange(self.image_size, device=device)
        self.rows = self.columns[:, None] * self.images.shape[2]
        self.order = Shuffled(self.size)

    def batches(self, steps: range) -> Iterator[Batch]:
        for step in steps:
            for random in self.plan.micro_batches(step):
                yield self.batch(random)

    def batch(self, random: StepRandom) -> Batch:
        """Return a micro-batch: images after crop, flip and normalization, and their labels."""
        number, indices = self.order.locate(random)
        view = number % self.cached_views if self.cached_views else 0
        if self.cached_views:
            images = self.view(view, indices)
        else:
            corner, flipped = self.draw(random.generator("augmentation", "cpu"), random.batch)
            images = self.augmented(indices, corner[:, random.rows], flipped[random.rows])
        labels = self.labels[to_device(indices, self.device)]
        return Batch(images, labels, random, number + 1, indices, view)

    def draw(self, noise: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Draw the top and left of each crop (2, count) and its flip (count,)."""
        corner = torch.randint(2 * self.crop_padding + 1, (2, count), generator=noise)
        return corner, torch.rand(count, generator=noise) < self.hflip

    def augmented(self, indices: Tensor, corner: Tensor, flipped: Tensor) -> Tensor:
        """Return normalized training images (B, 3, S, S) with these crops (2, B) and flips (B,)."""
        # The places of all pixels of the crops. A flipped crop starts at its right end and runs to the left.
        (top, left), width = corner, self.images.shape[2]
        start = left.add(top, alpha=width).add(indices, alpha=width**2).add(flipped, alpha=self.image_size - 1)
        start, step = to_device(torch.stack([start, 1 - 2 * flipped]), self.device).view(2, -1, 1, 1)
        places = start + torch.addcmul(self.rows, self.columns, step)
        return self.normalize(self.images.view(-1, 3)[places].permute(0, 3, 1, 2))

    def view(self, view: int, indices: Tensor) -> Tensor:
        """Return normalized training images (B, 3, S, S) in one cached view, the same for every seed."""
        if view != self.drawn_view:
            noise = generator("cpu", "cached view", view)
            self.drawn_view, self.drawn = view, self.draw(noise, self.size)
        corner, flipped = self.drawn
        return self.augmented(indices, corner[:, indices], flipped[indices])

    def view_settings(self) -> dict:
        inside = slice(self.crop_padding, self.crop_padding + self.image_size)
        images = self.images[:, inside, inside].permute(0, 3, 1, 2)
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
    """Evaluation images of a source (`gendd.data.batch.EvaluationData`)."""

    def __init__(
        self, source: Source, dataset: str, split: str, plan: BatchPlan, normalize: Normalize, device: torch.device
    ):
        self.plan, self.normalize, self.dataset, self.split = plan, normalize, dataset, split
        self.class_names, self.passed_over, self.checksum = source.class_names, source.passed_over, source.checksum
        images = source.images.in_evaluation_order()
        self.size, self.image_size = len(images), images.images.shape[-1]
        self.images, self.labels = images.images.to(device), images.labels.to(device)

    def batches(self, limit: int = 0) -> Batches:
        size = min(limit or self.size, self.size)
        for number, first in enumerate(range(0, size, EVAL_BATCH)):
            if number % self.plan.world == self.plan.rank:
                rows = slice(first, min(first + EVAL_BATCH, size))
                yield number, self.normalize(self.images[rows]), self.labels[rows]
