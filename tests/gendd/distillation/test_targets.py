"""Contraction, mixup and standardization, compared with arithmetic written here."""

import pytest
import torch

from gendd.distillation.targets import FeatureScale, contract, feature_mixup, swap_neighbors


def test_hard_labels_pull_toward_classifier_row():
    feature, weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 0.0], [0.0, 20.0]])
    pulled = contract(feature, weight, torch.tensor([1, 0]), 0.75)
    torch.testing.assert_close(pulled, torch.tensor([[0.25, 15.5], [8.25, 1.0]]))


def test_soft_labels_pull_toward_mixed_rows():
    weight, soft = torch.randn(5, 3), torch.rand(4, 5)
    feature = torch.randn(4, 3)
    expected = torch.stack(
        [
            0.4 * f + 0.6 * sum(p * row for p, row in zip(s, weight, strict=True))
            for f, s in zip(feature, soft, strict=True)
        ]
    )
    torch.testing.assert_close(contract(feature, weight, soft, 0.6), expected)


def test_one_hot_soft_labels_equal_hard_ones():
    weight, labels, feature = torch.randn(5, 3), torch.tensor([4, 0]), torch.randn(2, 3)
    one_hot = torch.nn.functional.one_hot(labels, 5)
    torch.testing.assert_close(contract(feature, weight, one_hot, 0.9), contract(feature, weight, labels, 0.9))


def test_soft_labels_pull_in_full_precision_under_autocast():
    weight, soft, feature = torch.randn(5, 3), torch.rand(4, 5), torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        pulled = contract(feature, weight, soft, 0.9)
    torch.testing.assert_close(pulled, contract(feature, weight, soft, 0.9), rtol=0, atol=0)


def test_zero_contraction_does_not_use_labels():
    feature = torch.randn(2, 3)
    torch.testing.assert_close(contract(feature, torch.randn(5, 3), None, 0.0), feature, rtol=0, atol=0)


def test_target_has_no_gradient():
    feature, weight = torch.randn(2, 3, requires_grad=True), torch.nn.Parameter(torch.randn(5, 3))
    assert not contract(feature, weight, torch.tensor([0, 1]), 0.5).requires_grad


def test_contracted_target_gives_gradient_of_both_tasks():
    """Squared error: grad(f') = (1 - lambda) grad(f) + lambda grad(c), if the center of class y is W[y]."""
    feature, weight, labels, share = torch.randn(6, 3), torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 4, 0]), 0.7
    prediction = torch.randn(6, 3, requires_grad=True)

    def gradient(target):
        return torch.autograd.grad(((prediction - target) ** 2).sum(), prediction)[0]

    both = (1 - share) * gradient(feature) + share * gradient(weight[labels])
    torch.testing.assert_close(gradient(contract(feature, weight, labels, share)), both)


def test_mixup_pairs_neighbors():
    assert swap_neighbors(4).tolist() == [1, 0, 3, 2]
    assert swap_neighbors(3).tolist() == [1, 0, 2]
    values = torch.tensor([[0.0], [10.0], [4.0], [8.0]])
    mixed = feature_mixup(values, torch.tensor(0.75), swap_neighbors(4))
    assert mixed.flatten().tolist() == [2.5, 7.5, 5.0, 7.0]


@pytest.mark.parametrize("factor", [0.02, 20.0])
def test_feature_scale_removes_the_teachers_scale(factor):
    features = torch.randn(500, 6) * torch.tensor([1, 2, 3, 4, 5, 0]) + 3
    one, other = FeatureScale(6), FeatureScale(6)
    one.measure(features)
    other.measure(features * factor)
    torch.testing.assert_close(one(features), other(features * factor), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.inverse(other(features * factor)), features * factor)
    assert one.std[5] == 1, "a constant feature keeps its unit"


@pytest.mark.parametrize("isotropic", [False, True])
def test_isotropic_scale_keeps_ratios_of_dimensions(isotropic):
    features = torch.randn(5000, 3) * torch.tensor([0.1, 1.0, 10.0]) + 4
    scale = FeatureScale(3, isotropic)
    scale.measure(features)
    variance = scale(features).var(0, correction=0)
    assert variance.mean() == pytest.approx(1, rel=1e-4)
    assert (variance[2] / variance[0] > 5000) == isotropic
    torch.testing.assert_close(scale.inverse(scale(features)), features)
