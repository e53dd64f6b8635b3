"""Targets of the head: distribution contraction, feature mixup and standardization of teacher features."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def contract(feature: Tensor, classifier_weight: Tensor, labels: Tensor | None, contraction: float) -> Tensor:
    """Pull teacher features toward their class centers, without gradient: f' = (1 - lambda) f + lambda c.

    The class center is assumed to be the classifier's row: c_y = W_y. The gradient of a squared error toward f' then
    combines two gradients: (1 - lambda) times the one toward f, and lambda times the one toward c. The contraction
    thus replaces a classification loss (arXiv 2507.14503, distribution contraction).

    Args:
        feature: (B, D_t).
        classifier_weight: (C, D_t).
        labels: (B,) class indices or (B, C) soft labels; may be None with contraction 0, which does not use them.
        contraction: lambda in [0, 1].

    Returns:
        (B, D_t) float32.

    Raises:
        ValueError: `contraction` is not 0, and labels or class centers are missing.
    """
    feature = feature.float()
    if contraction == 0:
        return feature.detach()
    if classifier_weight is None or labels is None:
        raise ValueError("contraction needs labels and class centers; give both, or contraction 0")
    weight = classifier_weight.float()
    # Autocast would round the product of soft labels to bf16.
    with torch.autocast(feature.device.type, enabled=False):
        center = labels.to(weight) @ weight if labels.dim() == 2 else weight[labels]
    return torch.lerp(feature, center, contraction)


def feature_mixup(values: Tensor, share: Tensor, permutation: Tensor) -> Tensor:
    """Return share * values + (1 - share) * values[permutation], for conditions (B, D_s) or targets (B, D_t)."""
    return share * values + (1 - share) * values[permutation]


def swap_neighbors(batch: int, device: torch.device | None = None) -> Tensor:
    """Return the permutation of feature mixup: 0 <-> 1, 2 <-> 3, ...; the last of an odd batch stays.

    The images of a batch are in random order, so neighbors are random pairs. A pair stays within one process, so the
    mixture does not depend on the number of processes.
    """
    return (torch.arange(batch, device=device) ^ 1).clamp(max=batch - 1)


class FeatureScale(nn.Module):
    """Standardization of a teacher's features (B, D_t): mean and standard deviation per dimension.

    The head generates standardized features, because teachers differ by orders of magnitude in both.

    Args:
        isotropic: divide all dimensions by the root of their mean variance. The directions to the class centers keep
            their lengths relative to each other, which contraction needs.
    """

    def __init__(self, width: int, isotropic: bool = False):
        super().__init__()
        self.isotropic = isotropic
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def measure(self, features: Tensor) -> None:
        """Set mean and deviation from features (N, D_t); a dimension that does not vary gets the deviation 1."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        if self.isotropic:
            std = std.square().mean().sqrt().expand_as(std)
        self.mean.copy_(mean)
        self.std.copy_(std.where(std > 1e-6 * std.max().clamp(min=1e-30), 1))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def inverse(self, features: Tensor) -> Tensor:
        return features * self.std + self.mean
