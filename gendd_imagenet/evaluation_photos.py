"""Photographs to evaluate on, in a fixed order and without augmentation."""

from typing import Any, cast

import torch

from gendd.config import Config
from gendd.core.distributed import World, usable_cores
from gendd.core.seeding import BatchPlan
from gendd.data.batch import HELD_OUT, Batches, Normalize
from gendd_imagenet import loading
from gendd_imagenet.config import Photographs
from gendd_imagenet.hub_images import AnyListing
from gendd_imagenet.images import EvalView
from gendd_imagenet.reinforced import HeldOut, Reinforced


def unlabeled(listing: Any) -> Any:
    """Return the images in the order of an evaluation, with unknown labels."""
    return listing.with_labels(torch.full((len(listing),), -1)).in_evaluation_order()


class EvaluationPhotos:
    """Images for the evaluation (`gendd.data.batch.EvaluationData`)."""

    def __init__(
        self,
        config: Config[Photographs],
        listing: AnyListing,
        dataset: str,
        split: str,
        plan: BatchPlan,
        world: World,
        normalize: Normalize,
    ):
        self.plan, self.normalize, self.device = plan, normalize, world.device
        self.dataset, self.split = dataset, split
        self.image_size, self.workers = config.data.image_size, min(config.data.workers, usable_cores())
        self.view = EvalView(config.data.image_size, config.data.crop_pct, config.data.interpolation)
        self.passed_over, self.listing, self.size = listing.passed_over, listing, len(listing)
        self.class_names = listing.classes if listing.known.any() else ()
        self.checksum = self.listing.checksum

    def batches(self, limit: int = 0) -> Batches:
        size = min(limit or self.size, self.size)
        starts = list(enumerate(range(0, size, loading.EVAL_BATCH)))[self.plan.rank :: self.plan.world]
        slices = [slice(first, min(first + loading.EVAL_BATCH, size)) for _, first in starts]
        chunks = loading.evaluation_chunks(self.listing, self.view, slices, self.workers, self.device.type == "cuda")
        for (number, _), chunk in zip(starts, chunks, strict=True):
            images = chunk.images.to(self.device, non_blocking=True)
            yield number, self.normalize(images), chunk.labels.to(self.device, non_blocking=True)


class ReinforcedEvaluation(EvaluationPhotos):
    """The held-out images of reinforced shards. The teacher's features are in place of their labels."""

    def __init__(self, config: Config[Photographs], plan: BatchPlan, world: World, normalize: Normalize):
        reinforced = Reinforced.read(config.data.dataset)
        reinforced.check(config)
        held_out = unlabeled(reinforced.held_out())
        super().__init__(config, held_out, config.data.dataset, HELD_OUT, plan, world, normalize)

    def batches(self, limit: int = 0) -> Batches:
        for number, images, _ in super().batches(limit):
            first = number * loading.EVAL_BATCH
            held_out = cast(HeldOut, self.listing)
            features = [held_out.feature(index) for index in range(first, first + len(images))]
            yield number, images, torch.stack(features).to(self.device)
