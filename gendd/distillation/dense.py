"""The dense term: a head learns the teacher's feature map, location by location, from the student's map.

Shapes: B images, a grid of L = g x g locations, D_s channels of the student's map, D_m of the teacher's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.diffusion.draws import Draws
from gendd.distillation.targets import FeatureScale
from gendd.networks.feature_map import features_and_map, on_grid


class DenseTarget(NamedTuple):
    """The teacher's map on the grid, (B, L, D_m), and the random numbers of the loss; None for a regression."""

    feature_map: Tensor
    draws: Draws | None


class DenseHead(nn.Module):
    """A head that all locations share, with a learned embedding of the location.

    Args:
        head: learns features (N, D_m) from conditions (N, D_s): a `SplitTokenHead` or a `RegressionHead`.
        channels: D_s.
        grid: g.
        weight: weight of the dense loss.
        standardized: whether the head generates standardized features (`FeatureScale`).
        layers: stages of the student whose maps are the conditions; empty for its last map.
    """

    def __init__(
        self,
        head: nn.Module,
        channels: int,
        grid: int,
        weight: float,
        standardized: bool,
        layers: Sequence[int] = (),
    ):
        super().__init__()
        self.head, self.norm, self.grid, self.weight = head, nn.LayerNorm(channels), grid, weight
        self.layers = layers
        self.place = nn.Parameter(torch.zeros(channels, grid, grid))
        self.scale = FeatureScale(head.feature_dim) if standardized else None

    def observe(self, backbone: nn.Module, images: Tensor) -> tuple[Any, Tensor]:
        """Return a student's output before pooling, and its map (B, D_s, h, w), for images (B, 3, H, W)."""
        return features_and_map(backbone, images, self.layers)

    def draw(self, batch: int, rows: slice, generator: torch.Generator) -> Draws | None:
        """Draw the random numbers for some rows of a batch of images; None if the head does not use any."""
        if not self.head.draws_features:
            return None
        locations = self.grid**2
        draws = self.head.draw(batch * locations, generator)
        return draws.images(slice(rows.start * locations, rows.stop * locations))

    def forward(self, student_map: Tensor, target: DenseTarget) -> Tensor:
        """Return the mean loss (scalar) over all locations for the student's map (B, D_s, h, w)."""
        z = self.condition(on_grid(student_map, self.grid))
        features = target.feature_map.flatten(0, 1)
        features = self.scale(features) if self.scale else features
        return self.head(z.flatten(0, 1), features, target.draws)["loss"]

    def added(self, losses: dict[str, Tensor], dense_loss: Tensor) -> dict[str, Tensor]:
        """Return the losses of a step with the weighted dense loss in "loss", and alone as "dense_loss"."""
        return {**losses, "loss": losses["loss"] + self.weight * dense_loss, "dense_loss": dense_loss.detach()}

    def condition(self, student_map: Tensor) -> Tensor:
        """Return the conditions (B, h w, D_s) of a map (B, D_s, h, w)."""
        place = self.place
        if student_map.shape[2:] != place.shape[1:]:
            place = F.interpolate(place[None], student_map.shape[2:], mode="bilinear", align_corners=False)[0]
        return self.norm(student_map.flatten(2).mT) + place.flatten(1).mT

    def generate(self, backbone: nn.Module, images: Tensor) -> Tensor:
        """Return the map (B, D_m, h, w) in the teacher's space for images (B, 3, H, W)."""
        student_map = self.observe(backbone, images)[1]
        z = self.condition(student_map)
        generated = self.head.sample(z.flatten(0, 1))[:, 0]
        generated = self.scale.inverse(generated) if self.scale else generated
        return generated.unflatten(0, z.shape[:2]).mT.unflatten(2, student_map.shape[2:])


class DenseStudent(nn.Module):
    """A backbone and its dense head, for methods that train the backbone alone. Evaluation uses only the backbone."""

    def __init__(self, backbone: nn.Module, dense: DenseHead):
        super().__init__()
        self.backbone, self.dense = backbone, dense

    def forward(self, images: Tensor, target: DenseTarget | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (B, C); with a target also the dense loss (scalar)."""
        if target is None:
            return self.backbone(images)
        features, student_map = self.dense.observe(self.backbone, images)
        return self.backbone.forward_head(features), self.dense(student_map, target)
