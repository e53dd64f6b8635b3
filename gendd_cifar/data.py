"""Small images: the whole set lives on the device as uint8 and is augmented a batch at a time.

Shapes: N images of a set, B of a batch, S pixels a side.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from gendd.data import Batch
from gendd.distributed import World
from gendd.errors import UserError
from gendd.evaluation import class_groups
from gendd.randomness import BatchPlan, Shuffled, StepRandom, generator
from gendd_cifar.config import CifarTrainConfig
from gendd_cifar.sources import Source, read_source

# Small enough for a core's caches: 500 took a sixth longer per image (resnet20, bf16, one thread).
EVAL_BATCH = 250


def open_data(
    config: CifarTrainConfig, plan: BatchPlan, world: World, network: nn.Module, labeled_only: bool = False
) -> "ImageData":
    """Read the configuration's images onto the device, normalized as the network wants them."""
    size = None if config.dry_run else config.image_size
    # A dry run downloads nothing, so that none need wait.
    with contextlib.nullcontext() if config.dry_run else world.local_first():
        source = read_source(config.dataset, config.data_root, size, config.unlabeled_dir)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    augmentation = (config.crop_padding, config.hflip)
    chosen = (config.holdout, config.views, config.imbalance, config.label_fraction, labeled_only)
    return ImageData(source, plan, world.device, mean, std, *augmentation, *chosen)


class ImageData:
    """A source as the training loop wants it (`gendd.data.Data`). All images are read at once: none is passed over.

    Args:
        plan: how the global batch is divided.
        mean, std: of the network that the images are for, in [0, 1] units.
        holdout: fraction of the training images set apart, the same for every seed; evaluation then uses them.
        cached_views: views per image that the epochs show in turn; 0: each time a new one.
        imbalance: makes what is left a long-tailed training set (`gendd.split`), and what is evaluated not.
        label_fraction: share of the training images that keep their labels.
        labeled_only: train on these alone; else on all, the others with label -1.
    """

    def __init__(
        self,
        source: Source,
        plan: BatchPlan,
        device: torch.device,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        crop_padding: int = 4,
        hflip: float = 0.5,
        holdout: float = 0.0,
        cached_views: int = 0,
        imbalance: float = 1.0,
        label_fraction: float = 1.0,
        labeled_only: bool = False,
    ):
        self.plan, self.device, self.crop_padding, self.hflip = plan, device, crop_padding, hflip
        self.cached_views, self.drawn_view, self.drawn = cached_views, None, None
        self.broken_images, self.passed_over = 0, source.passed_over
        self.class_names, self.num_classes = source.class_names, source.num_classes
        self.image_size = source.train.images.shape[-1]
        train, evaluation, self.eval_split = source.train, source.test, "test"
        if holdout:
            (train, evaluation), self.eval_split = train.hold_out(holdout), "validation"
        train = train.long_tailed(imbalance)
        # The groups of a data set are the same for all methods: they are of all its training images.
        self.class_groups = class_groups(train.class_counts(self.num_classes))
        if label_fraction < 1:
            train = train.partly_labeled(label_fraction, labeled_only)
        evaluation = evaluation.in_evaluation_order()
        for split, data in (("training", train), (self.eval_split, evaluation)):
            if not len(data):
                raise UserError(f"--dataset: its {split} split is empty; --holdout {holdout} leaves nothing there")
        self.train_size, self.eval_size = len(train), len(evaluation)
        self.steps_per_epoch = self.train_size // plan.batch
        if not self.steps_per_epoch:
            raise UserError(f"--batch-size {plan.batch}: more than the {self.train_size} training images; lower it")
        padded = torch.nn.functional.pad(train.images, (crop_padding,) * 4)
        self.train_images, self.train_labels = padded.to(device), train.labels.to(device)
        self.eval_images, self.eval_labels = evaluation.images.to(device), evaluation.labels.to(device)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.order = Shuffled(self.train_size)

    def train_batches(self, steps: range):
        for step in steps:
            for random in self.plan.micro_batches(step):
                yield self.train_batch(random)

    def train_batch(self, random: StepRandom) -> Batch:
        """The images of a micro-batch, cropped, flipped and normalized, and their labels."""
        number, indices = self.order.locate(random)
        view = number % self.cached_views if self.cached_views else 0
        if self.cached_views:
            images = self.view(view, indices)
        else:
            corner, flipped = self.draw(random.generator("augmentation", "cpu"), random.batch)
            images = self.augmented(indices, corner[:, random.rows], flipped[random.rows])
        return Batch(images, self.train_labels[indices.to(self.device)], random, number + 1, indices, view)

    def draw(self, noise: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Top and left of crops (2, count), and which are flipped (count,)."""
        corner = torch.randint(2 * self.crop_padding + 1, (2, count), generator=noise)
        return corner, torch.rand(count, generator=noise) < self.hflip

    def augmented(self, indices: Tensor, corner: Tensor, flipped: Tensor) -> Tensor:
        """Training images (B, 3, S, S) normalized, each with its crop (2, B) and flip (B,)."""
        # All crops of all images as a view (N, 3, 2P+1, 2P+1, S, S); the indices pick one crop per image.
        windows = self.train_images.unfold(2, self.image_size, 1).unfold(3, self.image_size, 1)
        top, left = corner.to(self.device)
        images = windows[indices.to(self.device), :, top, left]
        images = torch.where(flipped.to(self.device)[:, None, None, None], images.flip(-1), images)
        return self.normalize(images)

    def view(self, view: int, indices: Tensor) -> Tensor:
        """Training images (B, 3, S, S), normalized, in one of their cached views, which are the same for every seed."""
        if view != self.drawn_view:
            noise = generator("cpu", "cached view", view)
            self.drawn_view, self.drawn = view, self.draw(noise, self.train_size)
        corner, flipped = self.drawn
        return self.augmented(indices, corner[:, indices], flipped[indices])

    def view_settings(self) -> dict:
        padding = self.crop_padding
        images = self.train_images[:, :, padding : padding + self.image_size, padding : padding + self.image_size]
        return {
            "images": self.train_size,
            "images_sha256": hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest(),
            "image_size": self.image_size,
            "crop_padding": self.crop_padding,
            "hflip": self.hflip,
        }

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        for view, rows in batches:
            yield self.view(view, torch.arange(rows.start, rows.stop))

    def eval_batches(self, limit: int = 0):
        size = min(limit or self.eval_size, self.eval_size)
        for number, first in enumerate(range(0, size, EVAL_BATCH)):
            if number % self.plan.world == self.plan.rank:
                rows = slice(first, min(first + EVAL_BATCH, size))
                yield number, self.normalize(self.eval_images[rows]), self.eval_labels[rows]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) to normalized float32, channels last."""
        return torch.addcmul(self.shift, images.to(memory_format=torch.channels_last).float(), self.scale)
