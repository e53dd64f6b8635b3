"""Which training images a setting keeps, and which of them keep their labels: the same for every seed and method."""

import torch
from torch import Tensor

from gendd.randomness import generator


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
    """Which images (N,) bool keep their labels (N,): this fraction of each class, but at least one image of it.

    What keeps its label at one fraction keeps it at a larger one.
    """
    kept = (fraction * torch.bincount(labels)).round().clamp(min=1)
    return _place_in_class(labels, "labels") < kept[labels]


def _place_in_class(labels: Tensor, purpose: str) -> Tensor:
    """Place (N,) of each image among those of its class, in an order that is random but always the same."""
    order = torch.randperm(len(labels), generator=generator("cpu", purpose))
    by_class = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels)
    first = sizes.cumsum(0) - sizes
    places = torch.empty_like(labels)
    places[by_class] = torch.arange(len(labels)) - first[labels[by_class]]
    return places
