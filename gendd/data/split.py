"""Images of a data set, and what a setting makes of them: the same for every seed and method."""

from typing import TypeVar

import torch
from torch import Tensor

from gendd.core.errors import InvalidSetting
from gendd.core.seeding import generator

AnySplit = TypeVar("AnySplit", bound="Split")


class Split:
    """N images and their labels (N,) int64, -1 where one is not known, or None where none is.

    Each family has its own: a dataclass with `labels`, and `select`.
    """

    labels: Tensor | None

    def select(self: AnySplit, indices: Tensor) -> AnySplit:
        """Those of these numbers, in their order, or those for which a (N,) bool holds."""
        raise NotImplementedError

    def with_labels(self: AnySplit, labels: Tensor) -> AnySplit:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def known(self) -> Tensor:
        """Which images (N,) bool have a label."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.labels >= 0 if self.labels.dim() == 1 else (self.labels >= 0).any(1)

    @property
    def known_labels(self) -> Tensor:
        """Labels (N,) or (N, K), -1 where none is known; ValueError without any."""
        if self.labels is None:
            raise ValueError("these images have no labels")
        return self.labels

    def hold_out(self: AnySplit, share: float) -> tuple[AnySplit, AnySplit]:
        """The rest, and a random share.

        Raises:
            UserError: the share is of no image.
        """
        order = torch.randperm(len(self), generator=generator("cpu", "holdout"))
        held = round(share * len(self))
        if not held:
            raise InvalidSetting("holdout", share, f"leaves none of {len(self)} images to evaluate on; raise it")
        return self.select(order[held:]), self.select(order[:held])

    def long_tailed(self: AnySplit, imbalance: float) -> AnySplit:
        """The split as it is, or its long-tailed part."""
        return self.select(long_tailed(self.known_labels, imbalance)) if imbalance < 1 else self

    def partly_labeled(self: AnySplit, fraction: float, labeled_only: bool) -> AnySplit:
        """This fraction with labels, and the others without, or (labeled_only) not at all."""
        labels = self.known_labels
        known = labeled(labels, fraction)
        return self.select(known) if labeled_only else self.with_labels(labels.where(known, -1))

    def in_evaluation_order(self: AnySplit) -> AnySplit:
        """In a random order: folders come sorted by class, and the first images should hold them all."""
        return self.select(torch.randperm(len(self), generator=generator("cpu", "evaluation order")))

    def class_counts(self, num_classes: int) -> Tensor:
        """Number of images (C,) of each class; those without a label belong to none."""
        labels = self.known_labels
        return torch.bincount(labels[labels >= 0], minlength=num_classes)


def long_tailed(labels: Tensor, imbalance: float) -> Tensor:
    """Which images (N,) bool are left of a set with labels (N,) when it is made long-tailed.

    Class i of C keeps n R^(i / (C - 1)) images, n being the size of the largest class and R the imbalance: the
    exponential profile of Cui et al. (CVPR 2019) and Cao et al. (NeurIPS 2019), classes in the order of their numbers.
    At least one image a class is kept. What a smaller R keeps, a larger one keeps too.
    """
    sizes = torch.bincount(labels)
    tail = torch.arange(len(sizes), dtype=torch.float64) / max(len(sizes) - 1, 1)
    kept = (sizes.max() * imbalance**tail).floor().clamp(min=1)
    return _place_in_class(labels, "long tail") < kept[labels]


def labeled(labels: Tensor, fraction: float) -> Tensor:
    """Which images (N,) bool keep their labels (N,), -1 where none is known: this fraction of each class, but at least
    one image of it.

    What keeps its label at one fraction keeps it at a larger one.
    """
    known = labels >= 0
    kept = (fraction * torch.bincount(labels[known])).round().clamp(min=1)
    chosen = torch.zeros_like(known)
    chosen[known] = _place_in_class(labels[known], "labels") < kept[labels[known]]
    return chosen


def _place_in_class(labels: Tensor, purpose: str) -> Tensor:
    """Place (N,) of each image among those of its class, in an order that is random but always the same."""
    order = torch.randperm(len(labels), generator=generator("cpu", purpose))
    by_class = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels)
    first = sizes.cumsum(0) - sizes
    places = torch.empty_like(labels)
    places[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return places
