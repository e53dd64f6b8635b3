"""The trained parts for a teacher after the first one."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gendd.diffusion.draws import Draws
from gendd.distillation.dense import DenseHead, DenseTarget
from gendd.distillation.targets import FeatureScale


class BranchTarget(NamedTuple):
    """A further teacher's features (B, D_t), with the random numbers and the dense target of its loss, or None."""

    feature: Tensor
    draws: Draws | None
    dense: DenseTarget | None


class Branch(nn.Module):
    """A head that generates the standardized feature of a further teacher, from the same condition as the first head.

    Args:
        head: see `Student`.
        dense: head of the dense term; None without one.
    """

    def __init__(self, head: nn.Module, dense: DenseHead | None = None):
        super().__init__()
        self.head, self.scale, self.dense = head, FeatureScale(head.feature_dim), dense

    def measure(self, features: Tensor, maps: Tensor | None) -> None:
        """Set the scales from features (N, D_t) and maps (N, L, D_m) of the teacher."""
        self.scale.measure(features)
        if maps is not None and self.dense and self.dense.scale:
            self.dense.scale.measure(maps.flatten(0, 1))

    def generate(self, z: Tensor, generator: torch.Generator | None = None, **sampling) -> Tensor:
        """Return the mean (B, D_t) of the features that the head generates for conditions (B, D_s)."""
        return self.scale.inverse(self.head.sample(z, generator=generator, **sampling).mean(1))
