"""Subsets of a data set (held-out, long-tailed, partly labeled), the same for every seed and method."""

from typing import TypeVar

import torch
from torch import Tensor

from gendd.core.errors import InvalidSetting
from gendd.core.seeding import generator

AnySplit = TypeVar("AnySplit", bound="Split")


class Split:
    """N images and their labels (N,) int64: -1 where a label is unknown, None if all are.

    Each family defines a dataclass with `labels` and `select`.
    """

    labels: Tensor | None

    def select(self: AnySplit, indices: Tensor) -> AnySplit:
        """Return the subset at these indices, in this order, or where the (N,) mask is true."""
        raise NotImplementedError

    def with_labels(self: AnySplit, labels: Tensor) -> AnySplit:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def known(self) -> Tensor:
        """Return a (N,) mask of the images that have a label."""
        if self.labels is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self.labels >= 0 if self.labels.dim() == 1 else (self.labels >= 0).any(1)

    @property
    def known_labels(self) -> Tensor:
        """Return the labels (N,) or (N, K), -1 where unknown.

        Raises:
            ValueError: the images have no labels.
        """
        if self.labels is None:
            raise ValueError("these images have no labels")
        return self.labels

    def hold_out(self: AnySplit, share: float) -> tuple[AnySplit, AnySplit]:
        """Split off a random share of the images; return the rest and the share.

        Raises:
            UserError: the share rounds to zero images.
        """
        order = torch.randperm(len(self), generator=generator("cpu", "holdout"))
        held = round(share * len(self))
        if not held:
            raise InvalidSetting("holdout", share, f"leaves none of {len(self)} images to evaluate on; raise it")
        return self.select(order[held:]), self.select(order[:held])

    def long_tailed(self: AnySplit, imbalance: float) -> AnySplit:
        """Return the long-tailed subset, or this split if `imbalance` is 1."""
        return self.select(long_tailed(self.known_labels, imbalance)) if imbalance < 1 else self

    def partly_labeled(self: AnySplit, fraction: float, labeled_only: bool) -> AnySplit:
        """Keep the labels of this fraction of the images; drop the other labels or, with `labeled_only`, images."""
        labels = self.known_labels
        known = labeled(labels, fraction)
        return self.select(known) if labeled_only else self.with_labels(labels.where(known, -1))

    def in_evaluation_order(self: AnySplit) -> AnySplit:
        """Shuffle the images: folders are sorted by class, and the first images should include all classes."""
        return self.select(torch.randperm(len(self), generator=generator("cpu", "evaluation order")))

    def class_counts(self, num_classes: int) -> Tensor:
        """Return the number of images (C,) per class; images without a label are not counted."""
        labels = self.known_labels
        return torch.bincount(labels[labels >= 0], minlength=num_classes)


def long_tailed(labels: Tensor, imbalance: float) -> Tensor:
    """Return a (N,) mask of the long-tailed subset of images with labels (N,).

    Class i of C keeps n R^(i / (C - 1)) images, at least one; n is the largest class's size, R the imbalance. This is
    the exponential profile of Cui et al. (CVPR 2019) and Cao et al. (NeurIPS 2019), with the classes in the order of
    their indices. A larger R keeps all images of a smaller R.
    """
    sizes = torch.bincount(labels)
    tail = torch.arange(len(sizes), dtype=torch.float64) / max(len(sizes) - 1, 1)
    kept = (sizes.max() * imbalance**tail).floor().clamp(min=1)
    return _place_in_class(labels, "long tail") < kept[labels]


def labeled(labels: Tensor, fraction: float) -> Tensor:
    """Return a (N,) mask of the images that keep their labels (N,): this fraction of each class, at least one image.

    Unknown labels are -1. A larger fraction keeps all labels of a smaller one.
    """
    known = labels >= 0
    kept = (fraction * torch.bincount(labels[known])).round().clamp(min=1)
    chosen = torch.zeros_like(known)
    chosen[known] = _place_in_class(labels[known], "labels") < kept[labels[known]]
    return chosen


def _place_in_class(labels: Tensor, purpose: str) -> Tensor:
    """Return each image's rank (N,) within its class, in a random order that depends on `purpose` only."""
    order = torch.randperm(len(labels), generator=generator("cpu", purpose))
    by_class = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels)
    first = sizes.cumsum(0) - sizes
    places = torch.empty_like(labels)
    places[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return places
