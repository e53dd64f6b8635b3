"""Splits: which images and which labels a setting keeps."""

import pytest
import torch

from gendd.data.split import labeled, long_tailed


def balanced(classes, images):
    return torch.arange(classes).repeat(images)


# Sizes of CIFAR-100-LT and CIFAR-10-LT, as printed in papers.
@pytest.mark.parametrize(
    ("classes", "images", "imbalance", "total"),
    [
        *((100, 500, 0.1, 19573), (100, 500, 0.02, 12608), (100, 500, 0.01, 10847)),
        *((10, 5000, 0.1, 20431), (10, 5000, 0.02, 13996), (10, 5000, 0.01, 12406)),
    ],
)
def test_long_tail_has_published_size(classes, images, imbalance, total):
    labels = balanced(classes, images)
    kept = long_tailed(labels, imbalance)
    sizes = torch.bincount(labels[kept])
    assert kept.sum() == total and sizes[0] == images and sizes[-1] == round(images * imbalance)
    assert (sizes.diff() <= 0).all()


def test_long_tail_follows_largest_class_and_keeps_small_ones():
    labels = torch.tensor([0] * 8 + [1] * 100 + [2] * 3 + [3] * 60)
    # Class sizes at imbalance 100: 100, 46.4, 21.5, 10.
    assert torch.bincount(labels[long_tailed(labels, 0.1)]).tolist() == [8, 46, 3, 10]
    assert torch.bincount(labels[long_tailed(labels, 1e-6)]).tolist() == [8, 1, 1, 1]
    assert long_tailed(labels, 1).all() and long_tailed(torch.zeros(5, dtype=torch.int64), 0.1).all()


def test_fraction_keeps_at_least_one_label_per_class():
    labels = torch.tensor([0] * 100 + [1] * 16 + [2] * 2)
    assert torch.bincount(labels[labeled(labels, 0.1)]).tolist() == [10, 2, 1]
    assert torch.bincount(labels[labeled(labels, 0.001)]).tolist() == [1, 1, 1]
    assert labeled(labels, 1).all()


@pytest.mark.parametrize("choose", [long_tailed, labeled])
def test_split_is_fixed_and_larger_part_contains_smaller(choose):
    labels = balanced(10, 200)[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    large, small = choose(labels, 0.1), choose(labels, 0.02)
    torch.manual_seed(5)
    assert torch.equal(choose(labels, 0.1), large)
    assert not (small & ~large).any() and small.sum() < large.sum()
    # The kept images of a class are spread over the whole class.
    places = large[labels == 9].nonzero()[:, 0].float()
    assert 60 < places.mean() < 140
