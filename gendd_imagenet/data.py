"""Photographs: decoded by worker processes, normalized and mixed on the device.

Shapes: B images of this process's micro-batch, S pixels a side, C classes.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor, nn

from gendd.data import Batch
from gendd.distributed import World, usable_cores
from gendd.errors import UserError
from gendd.evaluation import class_groups
from gendd.randomness import BatchPlan, Shuffled, StepRandom
from gendd_imagenet import loading, shards
from gendd_imagenet.config import ImageNetTrainConfig
from gendd_imagenet.folders import RELEASE, Listing, refuse_other_classes
from gendd_imagenet.images import EvalView, TrainView
from gendd_imagenet.sources import eval_folder, eval_split, has_training_labels, list_evaluation, list_training

# Training goes on without broken images up to this share of those read, or this number if it is more.
BROKEN_SHARE, BROKEN_NUMBER = 0.01, 10


def open_data(
    config: ImageNetTrainConfig, plan: BatchPlan, world: World, network: nn.Module, labeled_only: bool = False
) -> "PhotoData":
    """The configuration's images, normalized as the network wants them."""
    return PhotoData(config, plan, world, network.pretrained_cfg["mean"], network.pretrained_cfg["std"], labeled_only)


class PhotoData:
    """Images for the training loop (`gendd.data.Data`). What is only trained on is listed when it is first used.

    Args:
        plan: how the global batch is divided.
        mean, std: of the network that the images are for, in [0, 1] units.
        labeled_only: train on the images that keep their labels alone; else on all, the others with label -1.
    """

    def __init__(
        self,
        config: ImageNetTrainConfig,
        plan: BatchPlan,
        world: World,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        labeled_only: bool = False,
    ):
        self.labeled_only = labeled_only
        self.config, self.plan, self.device = config, plan, world.device
        self.image_size, self.view = config.image_size, TrainView(config)
        self.checks_lists = world.is_first
        self.workers = min(config.workers, usable_cores())
        self.broken_images, self.read_images = 0, 0
        mean, std = (torch.tensor(values, device=world.device).view(1, 3, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.soft_labels = bool(config.mixup or config.cutmix or config.label_smoothing) and not config.unlabeled
        self.mixup = Mixup(
            config.mixup, config.cutmix, label_smoothing=config.label_smoothing, num_classes=self.num_classes
        )
        self.mixup.mixup_enabled = bool(config.mixup or config.cutmix)
        if (self.mixup.mixup_enabled or self.soft_labels) and plan.micro_batch_size % 2:
            raise UserError(
                f"--batch-size {plan.batch}: leaves micro-batches of {plan.micro_batch_size} images; mixup, cutmix and "
                "label smoothing take pairs: give one that leaves an even number"
            )

    @cached_property
    def streamed(self) -> list[str] | None:
        """The shards to train on, if it is shards."""
        if not shards.is_shards(self.config.dataset):
            return None
        found = shards.expand(self.config.dataset)
        absent = shards.absent_shards(found)
        if absent:
            raise UserError(
                f"--dataset {self.config.dataset}: {len(absent)} of {len(found)} shards are not there, such as "
                f"{absent[0]}; give the pattern of those that are"
            )
        if not self.config.steps_per_epoch:
            raise UserError(
                "--steps-per-epoch is missing: nobody counted the images of the shards; give a number of steps"
            )
        shards.own_streams(len(found), self.plan)
        return found

    @cached_property
    def listed_training(self) -> Listing:
        """The training images, with all labels that there are."""
        listing = list_training(self.config)
        if self.config.train_list:
            self._refuse_absent("--train-list", self.config.train_list, listing)
        if not self.config.unlabeled:
            refuse_other_classes(eval_folder(self.config), listing, self.evaluation)
        if self.config.holdout:
            listing, _ = listing.hold_out(self.config.holdout)
        return listing

    @cached_property
    def training(self) -> Listing:
        listing, fraction = self.listed_training, self.config.label_fraction
        if fraction < 1:
            listing = listing.partly_labeled(fraction, self.labeled_only)
        if len(listing) < self.plan.batch:
            raise UserError(f"--batch-size {self.plan.batch}: more than the {len(listing)} training images; lower it")
        return listing

    @cached_property
    def evaluation(self) -> Listing:
        if self.config.holdout:
            listing = list_training(self.config)
            _, listing = listing.hold_out(self.config.holdout)
            if not len(listing):
                raise UserError(f"--holdout {self.config.holdout}: leaves no image to evaluate on; raise it")
        else:
            listing = list_evaluation(self.config)
            if self.config.eval_list:
                self._refuse_absent("--eval-list", self.config.eval_list, listing)
        return listing.in_evaluation_order()

    def _refuse_absent(self, flag: str, file: str, listing: Listing) -> None:
        absent = listing.missing() if self.checks_lists else []
        if absent:
            raise UserError(
                f"{flag} {file}: {len(absent)} of {len(listing)} entries are not below {listing.root}, such as "
                f"{absent[0]}; it is made for {RELEASE}"
            )

    @property
    def class_names(self) -> tuple[str | None, ...]:
        return self.evaluation.classes

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def eval_size(self) -> int:
        return len(self.evaluation)

    @property
    def eval_split(self) -> str:
        if self.config.holdout:
            return "validation"
        return Path(self.config.eval_list).stem if self.config.eval_list else eval_split(eval_folder(self.config))

    @property
    def train_size(self) -> int:
        return self.steps_per_epoch * self.plan.batch if self.streamed else len(self.training)

    @property
    def steps_per_epoch(self) -> int:
        if self.streamed or self.config.steps_per_epoch:
            return self.config.steps_per_epoch
        return len(self.training) // self.plan.batch

    @cached_property
    def class_groups(self) -> dict[str, Tensor]:
        """Classes with many, medium and few training images, where these differ."""
        if not has_training_labels(self.config):
            return {}
        return class_groups(self.listed_training.class_counts(len(self.listed_training.classes)))

    @property
    def passed_over(self) -> Counter[str]:
        if self.streamed:
            return self.evaluation.passed_over
        # What is held out comes from the same folders.
        apart = Counter() if self.config.holdout else self.evaluation.passed_over
        return self.listed_training.passed_over + apart

    def train_batches(self, steps: range) -> Iterator[Batch]:
        chunks = self._chunks(steps)
        for step in steps:
            for random in self.plan.micro_batches(step):
                images, labels = self._next(chunks, self.plan.micro_batch_size)
                images, labels = self._mix(random, self.normalize(images), labels)
                yield Batch(images, labels, random, step // self.steps_per_epoch + 1, *self._shown(random))

    def _shown(self, random: StepRandom) -> tuple[Tensor, int] | tuple[()]:
        """Numbers of a micro-batch's images and of their view; those of shards have none."""
        if self.streamed:
            return ()
        number, indices = self.order.locate(random)
        return indices, number % self.config.views if self.config.views else 0

    def _chunks(self, steps: range) -> Iterator[loading.Chunk]:
        config, pin = self.config, self.device.type == "cuda"
        if self.streamed:
            epoch = steps.start // self.steps_per_epoch
            return loading.streamed_chunks(self.streamed, self.view, self.plan, epoch, steps, self.workers, pin)
        return self._listed(loading.step_requests(len(self.training), self.plan, steps, config.views))

    def _listed(self, requests: Iterator[loading.Request]) -> Iterator[loading.Chunk]:
        labeled, pin = not self.config.unlabeled, self.device.type == "cuda"
        return loading.listed_chunks(self.training, self.view, requests, labeled, self.workers, pin)

    def _next(self, chunks: Iterator[loading.Chunk], size: int) -> tuple[Tensor, Tensor]:
        """uint8 images (B, 3, S, S) and labels (B,) of the next `size` images, on the device."""
        side = self.image_size
        layout = {"dtype": torch.uint8, "device": self.device, "memory_format": torch.channels_last}
        images = torch.empty(size, 3, side, side, **layout)
        labels = torch.empty(size, dtype=torch.int64, device=self.device)
        filled = 0
        while filled < size:
            chunk = next(chunks)
            self._note_broken(chunk)
            rows = slice(filled, filled + len(chunk.labels))
            images[rows].copy_(chunk.images, non_blocking=True)
            labels[rows].copy_(chunk.labels, non_blocking=True)
            filled = rows.stop
        return images, labels

    def _note_broken(self, chunk: loading.Chunk) -> None:
        self.read_images += len(chunk.labels) + len(chunk.broken)
        self.broken_images += len(chunk.broken)
        for line in chunk.broken:
            print(f"broken image, passed over: {line}", file=sys.stderr, flush=True)
        if self.broken_images > max(BROKEN_NUMBER, BROKEN_SHARE * self.read_images):
            share = f"{self.broken_images} of {self.read_images} images"
            raise UserError(
                f"--dataset {self.config.dataset}: {share} are broken, such as {chunk.broken[-1]}; --check-data lists "
                "them; replace them or take them off"
            )

    def _mix(self, random: StepRandom, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix of neighbors, so that pairs stay in one process, and smooth labels (B, C)."""
        if not self.mixup.mixup_enabled and not self.soft_labels:
            return images, labels
        # timm draws from numpy's global generator, and pairs the first image with the last.
        np.random.seed(random.generator("image mixup", "cpu").initial_seed() % 2**32)
        first = torch.arange(0, len(images), 2, device=images.device)
        order = torch.cat([first, first.flip(0) + 1])
        mixed, soft = self.mixup(images[order], labels[order].clamp(min=0))
        back = order.argsort()
        return mixed[back], soft[back] if self.soft_labels else labels

    def view_settings(self) -> dict:
        config, listing = self.config, self.training
        names = ("image_size", "crop_scale", "hflip", "color_jitter", "auto_augment", "interpolation")
        return {
            "data_set": listing.root.resolve().name,
            "images": len(listing),
            "image_names_sha256": hashlib.sha256(b"\n".join(listing.names.tolist())).hexdigest(),
            **{name: getattr(config, name) for name in names},
        }

    @cached_property
    def order(self) -> Shuffled:
        return Shuffled(len(self.training))

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        chunks = self._listed(request for view, rows in batches for request in loading.view_requests(view, rows))
        for _, rows in batches:
            images, _ = self._next(chunks, len(rows))
            yield self.normalize(images)

    def eval_batches(self, limit: int = 0):
        size = min(limit or self.eval_size, self.eval_size)
        starts = list(enumerate(range(0, size, loading.EVAL_BATCH)))[self.plan.rank :: self.plan.world]
        slices = [slice(first, min(first + loading.EVAL_BATCH, size)) for _, first in starts]
        view = EvalView(self.image_size, self.config.crop_pct, self.config.interpolation)
        chunks = loading.evaluation_chunks(self.evaluation, view, slices, self.workers, self.device.type == "cuda")
        for (number, _), chunk in zip(starts, chunks, strict=True):
            images = chunk.images.to(self.device, non_blocking=True)
            yield number, self.normalize(images), chunk.labels.to(self.device, non_blocking=True)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) to normalized float32, channels last."""
        return torch.addcmul(self.shift, images.to(memory_format=torch.channels_last).float(), self.scale)
