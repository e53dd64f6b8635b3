"""The linear classifier per location, and the mean intersection over union."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from gendd.evaluation.segmentation import (
    IGNORED,
    cell_labels,
    fit_dense_probe,
    intersections_and_unions,
    mean_iou,
    predicted_masks,
)


def test_mean_iou_equals_scikit_learns():
    random = np.random.default_rng(0)
    truth, predicted = (random.integers(0, 4, (3, 8, 8)) for _ in range(2))
    truth[0, :2] = IGNORED
    known = truth != IGNORED
    counts = sum(
        intersections_and_unions(torch.tensor(predicted[i]), torch.tensor(truth[i]), num_classes=5) for i in range(3)
    )
    expected = 100 * jaccard_score(truth[known], predicted[known], average="macro")
    assert mean_iou(counts) == pytest.approx(expected)


def test_cell_has_its_most_frequent_class():
    mask = torch.tensor([[[1, 1, 0, 0], [1, 0, 0, 2], [IGNORED, IGNORED, 2, 2], [IGNORED, IGNORED, IGNORED, 2]]])
    assert cell_labels(mask, 2, 2, num_classes=3).tolist() == [[[1, 0], [-1, 2]]]


def test_probe_finds_the_classes_of_separable_maps():
    torch.manual_seed(0)
    masks = torch.randint(0, 2, (20, 4, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    direction = torch.randn(6)
    maps = (2 * masks[:, ::2, ::2] - 1)[:, None] * direction[None, :, None, None] + 0.1 * torch.randn(20, 6, 4, 4)
    probe, _ = fit_dense_probe(maps[:16], masks[:16], num_classes=2)
    predicted = predicted_masks(probe, maps[16:], 4, 4)
    assert torch.equal(predicted, masks[16:, ::2, ::2])
    assert predicted_masks(probe, maps, 8, 8).shape == (20, 8, 8)


def test_mean_iou_counts_a_class_without_a_correct_pixel():
    """The third class occurs neither in the masks nor in the predictions."""
    counts = intersections_and_unions(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 0]), num_classes=3)
    assert mean_iou(counts) == pytest.approx(100 * (2 / 4 + 0 / 2) / 2)


def test_logits_are_enlarged_between_the_centers_of_cells():
    """The first class leads by 1 - 4 x; the 8 pixels are at x = -3/8, -1/8, 1/8, 3/8, ... between the 2 cells."""
    maps = torch.tensor([[1.0, -3.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    assert predicted_masks(torch.nn.Identity(), maps, 1, 8).tolist() == [[[0, 0, 0, 1, 1, 1, 1, 1]]]
