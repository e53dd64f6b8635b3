"""What the head learns to generate: distribution contraction, feature mixup, and the scale of the features."""

import torch
from torch import Tensor, nn


def contract(feature: Tensor, classifier_weight: Tensor, labels: Tensor | None, contraction: float) -> Tensor:
    """Pull teacher features toward their class centers: f' = (1 - lambda) f + lambda c, without gradient.

    The class center is taken to be the classifier's row, W_y = c_y. Under this assumption the gradient of a
    squared error toward f' is (1 - lambda) times that toward f plus lambda times that toward c, so that the
    contraction replaces a classification loss (arXiv 2507.14503, distribution contraction).

    Args:
        feature: (B, D_t); classifier_weight: (C, D_t).
        labels: (B,) class indices, (B, C) soft labels, or None with contraction 0: no label is read at all.
        contraction: lambda in [0, 1].

    Returns:
        (B, D_t) float32.
    """
    feature = feature.detach().float()
    if contraction == 0:
        return feature
    if classifier_weight is None or labels is None:
        raise ValueError("contraction needs labels and class centers; give both, or contraction 0")
    weight = classifier_weight.detach().float()
    # Autocast would round the product of soft labels to bf16.
    with torch.autocast(feature.device.type, enabled=False):
        center = labels.to(weight) @ weight if labels.dim() == 2 else weight[labels]
    return torch.lerp(feature, center, contraction)


def feature_mixup(values: Tensor, share: Tensor, permutation: Tensor) -> Tensor:
    """share * values + (1 - share) * values[permutation], for conditions (B, D_s) and targets (B, D_t) alike."""
    return share * values + (1 - share) * values[permutation]


def swap_neighbors(batch: int) -> Tensor:
    """The permutation of feature mixup: 0 <-> 1, 2 <-> 3, ...; the last of an odd batch stays.

    Batches come in random order, so neighbors are random pairs; and a pair stays within one process, so that the
    mixture does not depend on how many processes share the batch.
    """
    return (torch.arange(batch) ^ 1).clamp(max=batch - 1)


class FeatureScale(nn.Module):
    """Mean and standard deviation of each dimension of a teacher's features (B, D_t), in whose units the head generates
    them: teachers differ by orders of magnitude in both."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def measure(self, features: Tensor) -> None:
        """Take the units from some features (N, D_t); dimensions that do not vary keep theirs."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(std.where(std > 1e-6 * std.max().clamp(min=1e-30), 1))

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std

    def inverse(self, features: Tensor) -> Tensor:
        return features * self.std + self.mean
