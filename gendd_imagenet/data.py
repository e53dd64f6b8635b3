"""Photographs: worker processes decode them, the device normalizes and mixes them.

Shapes: B images in this process's micro-batch, S pixels per side, C classes.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor, nn

from gendd.config import Config
from gendd.core.distributed import World, usable_cores
from gendd.core.errors import InvalidSetting, naming
from gendd.core.seeding import BatchPlan, StepRandom
from gendd.core.shared import shared
from gendd.core.terminal import printable
from gendd.data.batch import HELD_OUT, Batch, Normalize
from gendd_imagenet import loading, shard_index, shards
from gendd_imagenet.config import Photographs
from gendd_imagenet.evaluation_photos import EvaluationPhotos, ReinforcedEvaluation, unlabeled
from gendd_imagenet.folders import Listing, refuse_absent
from gendd_imagenet.hub_images import AnyListing, HubListing, is_hub
from gendd_imagenet.images import TrainView
from gendd_imagenet.reinforced import Reinforced, is_reinforced
from gendd_imagenet.reinforced_images import ReinforcedImages
from gendd_imagenet.sources import (
    UNKNOWN_SIZES,
    eval_folder,
    eval_split,
    has_training_labels,
    held_share,
    list_evaluation,
    list_training,
    refuse_unlabeled,
    training_field,
)
from gendd_imagenet.streams import ShardSet

# Training skips broken images up to this share of the images read, or this number if that is more.
BROKEN_SHARE, BROKEN_NUMBER = 0.01, 10
WITHOUT_LABEL = "without a label"


def open_training(
    config: Config[Photographs],
    num_classes: int,
    plan: BatchPlan,
    world: World,
    network: nn.Module,
    labeled_only: bool = False,
) -> "TrainingPhotos":
    """Open the training images, with the network's normalization.

    Args:
        labeled_only: leave out images without labels. Otherwise their label is -1.
    """
    return TrainingPhotos(config, num_classes, plan, world, Normalize.of(network, world.device), labeled_only)


def open_evaluation(
    config: Config[Photographs], plan: BatchPlan, world: World, network: nn.Module, of_training: bool = False
) -> EvaluationPhotos:
    """Open the evaluation images, with the network's normalization.

    Args:
        of_training: open the training images instead, without augmentation.
    """
    if is_reinforced(config.data.images) and not of_training:
        return ReinforcedEvaluation(config, plan, world, Normalize.of(network, world.device))
    held = config.data.evaluates_held_out
    of_run = of_training or held
    dataset = config.data.dataset if of_run else config.data.eval_dataset or config.data.dataset

    def listed() -> AnyListing:
        if of_run:
            listing = list_training(config)
            if share := held_share(config, len(listing)):
                listing = listing.hold_out(share)[0 if of_training else 1]
            # The training images already report the skipped files.
            listing = replace(listing, passed_over=Counter())
        else:
            listing = list_evaluation(config)
            _refuse_absent("eval_list", config, world, listing)
        if not (of_training or config.data.images):
            refuse_unlabeled(config, listing, held_out=held)
        return _with_label(listing).in_evaluation_order() if listing.known.any() else unlabeled(listing)

    listing = _listed_once(dataset, world, listed)
    if of_run:
        split = "train" if of_training else HELD_OUT
    else:
        split = listing.split if isinstance(listing, HubListing) else _name_of_evaluation(config)
    return EvaluationPhotos(config, listing, dataset, split, plan, world, Normalize.of(network, world.device))


Listed = TypeVar("Listed")


def _listed_once(dataset: str, world: World, listed: Callable[[], Listed]) -> Listed:
    # The package datasets maps its files in every process.
    return listed() if is_hub(dataset) else shared(world, listed)


def _refuse_absent(field: str, config: Config[Photographs], world: World, listing: AnyListing) -> None:
    """Refuse a list, if the configuration has one, that names missing files. One process asks for them."""
    if (file := getattr(config.data, field)) and world.is_first and isinstance(listing, Listing):
        with naming(field):
            refuse_absent(file, listing)


def _with_label(listing: AnyListing) -> AnyListing:
    """Return the images with a label; count the others as skipped."""
    known = listing.known
    lacking = Counter({WITHOUT_LABEL: int((~known).sum())})
    return replace(listing.select(known), passed_over=listing.passed_over + lacking)


class TrainingPhotos:
    """Images for the training loop (`gendd.data.batch.TrainingData`).

    Args:
        plan: division of the global batch.
        labeled_only: train only on images that keep their label. Otherwise train on all; removed labels are -1.
    """

    def __init__(
        self,
        config: Config[Photographs],
        num_classes: int,
        plan: BatchPlan,
        world: World,
        normalize: Normalize,
        labeled_only: bool = False,
    ):
        self.config, self.plan, self.normalize, self.device = config, plan, normalize, world.device
        self.view, self.workers = TrainView(config), min(config.data.workers, usable_cores())
        self.broken_images, self.read_images = 0, 0
        self.soft_labels = (
            bool(config.data.mixup or config.data.cutmix or config.data.label_smoothing) and not config.data.unlabeled
        )
        # timm mixes labels too, for which images without classes need one class.
        smoothing, classes = config.data.label_smoothing, max(num_classes, 1)
        self.mixup = Mixup(config.data.mixup, config.data.cutmix, label_smoothing=smoothing, num_classes=classes)
        self.mixup.mixup_enabled = bool(config.data.mixup or config.data.cutmix)
        if (self.mixup.mixup_enabled or self.soft_labels) and plan.micro_batch_size % 2:
            raise InvalidSetting(
                "batch_size",
                plan.batch,
                f"gives micro-batches of {plan.micro_batch_size} images, but mixup, cutmix and "
                "label smoothing work on pairs; choose one that gives an even number",
            )
        self.streamed = self._shards()
        self.reinforced = Reinforced.read(config.data.dataset) if is_reinforced(config.data.images) else None
        self.class_sizes: Tensor | None = None
        self.class_names: tuple[str | None, ...] = ()
        self.passed_over: Counter[str] = Counter()
        if self.streamed:
            sizes = self.streamed.sizes
            self.steps_per_epoch = config.data.steps_per_epoch or sum(sizes or ()) // plan.batch
            self.size = sum(sizes) if sizes else self.steps_per_epoch * plan.batch
            self.steps_per_pass = self.size // plan.batch
            if not self.steps_per_pass:
                raise self._too_few(self.size, "")
            return
        self.listing, self.class_sizes = _listed_once(
            config.data.dataset, world, lambda: self._list(world, labeled_only)
        )
        self.size, self.passed_over = len(self.listing), self.listing.passed_over
        if self.class_sizes is not None:
            self.class_names = self.listing.classes
        self.steps_per_epoch = config.data.steps_per_epoch or self.size // plan.batch

    @property
    def source(self) -> tuple[str, str]:
        """The setting, with its value, that names the training images."""
        return training_field(self.config), self.config.data.dataset

    def _list(self, world: World, labeled_only: bool) -> tuple[AnyListing, Tensor | None]:
        """Return the training images, and their number per class (C,)."""
        config, sizes = self.config, None
        listing = list_training(config)
        _refuse_absent("train_list", config, world, listing)
        total = len(listing)
        if share := held_share(config, total):
            listing, _ = listing.hold_out(share)
        held = f" after holding out {total - len(listing)} of {total}" if share else ""
        if not config.data.lacks_labels and listing.known.any():
            listing = _with_label(listing)
        if has_training_labels(config):
            sizes = listing.class_counts(len(listing.classes))
        if config.data.label_fraction < 1:
            listing = listing.partly_labeled(config.data.label_fraction, labeled_only)
        if len(listing) < self.plan.batch:
            raise self._too_few(len(listing), held)
        return listing, sizes

    def _too_few(self, images: int, aside: str) -> InvalidSetting:
        return InvalidSetting(
            *self.source,
            f"only {images} training images{aside}, fewer than `batch_size` "
            f"{self.plan.batch}; name more images, or lower the batch size",
        )

    def _shards(self) -> ShardSet | None:
        """Return the training shards, or None if the data set is not shards."""
        if not shards.is_shards(self.config.data.dataset):
            return None
        found = shards.expand(self.config.data.dataset)
        absent = shards.absent_shards(found)
        if absent:
            raise InvalidSetting(
                *self.source,
                f"{len(absent)} of {len(found)} shards are missing, such as "
                f"{absent[0]}; give a pattern that matches only existing shards",
            )
        with naming(self.source[0]):
            sizes = shard_index.read_sizes(found)
        # An empty shard is never read, so a wrong 0 would drop its images unseen. Of reinforced images, all of a shard
        # may be held out.
        if sizes and 0 in sizes and not is_reinforced(self.config.data.images):
            raise InvalidSetting(
                *self.source,
                f"its {shard_index.NAME} states no images for {found[sizes.index(0)]}; leave that shard out, or make "
                "the index again",
            )
        if not sizes and not self.config.data.steps_per_epoch:
            raise InvalidSetting("steps_per_epoch", None, UNKNOWN_SIZES)
        return ShardSet(found, sizes)

    def batches(self, steps: range) -> Iterator[Batch]:
        chunks = self._chunks(steps)
        for step in steps:
            for random in self.plan.micro_batches(step):
                with naming(*self.source):
                    chunk = self._next(chunks, self.plan.micro_batch_size)
                images, labels = self._mix(random, self.normalize(chunk.images), chunk.labels)
                epoch = step // self.steps_per_epoch + 1
                yield Batch(images, labels, random, epoch, chunk.indices, chunk.view, chunk.outputs)

    def _chunks(self, steps: range) -> Iterator[loading.Chunk]:
        config, pin = self.config, self.device.type == "cuda"
        if self.streamed:
            kind = partial(ReinforcedImages, self.reinforced) if self.reinforced else loading.StreamedImages
            return loading.streamed_chunks(
                self.streamed, self.view, self.plan, steps, self.steps_per_pass, self.workers, pin, kind
            )
        return self._listed(loading.step_requests(len(self.listing), self.plan, steps, config.views))

    def _listed(self, requests: Iterator[loading.Request]) -> Iterator[loading.Chunk]:
        labeled, pin = not self.config.data.unlabeled, self.device.type == "cuda"
        return loading.listed_chunks(self.listing, self.view, requests, labeled, self.workers, pin)

    def _next(self, chunks: Iterator[loading.Chunk], size: int) -> loading.Chunk:
        """Join chunks into one with the next `size` images, all of the same view, on the device."""
        side = self.config.data.image_size
        layout = {"dtype": torch.uint8, "device": self.device, "memory_format": torch.channels_last}
        images = torch.empty(size, 3, side, side, **layout)
        labels = torch.empty(size, dtype=torch.int64, device=self.device)
        indices: list[Tensor] = []
        outputs: list[Tensor] = []
        filled = 0
        while filled < size:
            chunk = next(chunks)
            self._note_broken(chunk)
            rows = slice(filled, filled + len(chunk.labels))
            images[rows].copy_(chunk.images, non_blocking=True)
            labels[rows].copy_(chunk.labels, non_blocking=True)
            filled = rows.stop
            if chunk.indices is not None:
                indices.append(chunk.indices)
            if chunk.outputs is not None:
                outputs.append(chunk.outputs)
        return loading.Chunk(
            *(images, labels),
            indices=torch.cat(indices) if indices else None,
            view=chunk.view,
            outputs=torch.cat(outputs) if outputs else None,
        )

    def _note_broken(self, chunk: loading.Chunk) -> None:
        self.read_images += len(chunk.labels) + len(chunk.broken)
        self.broken_images += len(chunk.broken)
        for line in chunk.broken:
            print(printable(f"skipped broken image: {line}"), file=sys.stderr, flush=True)
        if self.broken_images > max(BROKEN_NUMBER, BROKEN_SHARE * self.read_images):
            share = f"{self.broken_images} of {self.read_images} images"
            raise InvalidSetting(
                *self.source,
                f"{share} are broken, such as {chunk.broken[-1]}; list them with "
                "`check_data`, then replace or remove them",
            )

    def _mix(self, random: StepRandom, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix neighboring images, so that pairs stay in one process, and return soft labels (B, C) if used."""
        if not self.mixup.mixup_enabled and not self.soft_labels:
            return images, labels
        # timm uses NumPy's global generator and pairs the first image with the last.
        np.random.seed(random.generator("image mixup", "cpu").initial_seed() % 2**32)
        first = torch.arange(0, len(images), 2, device=images.device)
        order = torch.cat([first, first.flip(0) + 1])
        mixed, soft = self.mixup(images[order], labels[order].clamp(min=0))
        back = order.argsort()
        return mixed[back], soft[back] if self.soft_labels else labels

    def checksum(self) -> str | None:
        if not self.streamed:
            return self.listing.checksum()
        # With an index, the images come in another order.
        names = self.streamed.names
        files = shards.checksum([*names, *shard_index.files_beside(names)])
        return files or shard_index.checksum(names, self.streamed.sizes)

    def contents(self) -> str | None:
        if self.reinforced:
            return self.reinforced.contents()
        return None if self.streamed else self.listing.contents()

    def view_settings(self) -> dict:
        config, listing = self.config, self.listing
        names = ("image_size", "crop_scale", "hflip", "color_jitter", "auto_augment", "interpolation")
        return {
            "data_set": listing.root.resolve().name,
            "images": len(listing),
            "image_names_sha256": _checksum(listing.names),
            "image_contents_sha256": listing.contents(),
            **{name: getattr(config.data, name) for name in names},
        }

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        chunks = self._listed(request for view, rows in batches for request in loading.view_requests(view, rows))
        for _, rows in batches:
            yield self.normalize(self._next(chunks, len(rows)).images)


def _checksum(names: Iterable[bytes]) -> str:
    """Return the SHA-256 of names, joined by line feeds."""
    digest, separator = hashlib.sha256(), b""
    for name in names:
        digest.update(separator + name)
        separator = b"\n"
    return digest.hexdigest()


def _name_of_evaluation(config: Config[Photographs]) -> str:
    if config.data.images and config.data.eval_dataset:
        return Path(config.data.eval_dataset).name
    return Path(config.data.eval_list).stem if config.data.eval_list else eval_split(eval_folder(config))
