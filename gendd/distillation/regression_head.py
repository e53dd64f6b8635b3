"""A head that predicts the feature, the control of the generative head."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.diffusion.denoiser import ResidualBlock
from gendd.networks.cost import parameter_count

Distance = Literal["squared", "cosine"]


def residual_mlp(feature_dim: int, cond_dim: int, width: int, size: int = 0) -> nn.Sequential:
    """Return a residual MLP, (B, D_s) -> (B, D_t), as wide as `SplitTokenHead`'s denoiser.

    Args:
        size: number of parameters. The MLP has this size up to half a block, and at least one block.
    """
    embedding, output = nn.Linear(cond_dim, width), nn.Linear(width, feature_dim)
    left = size - parameter_count(embedding) - parameter_count(output)
    blocks = max(1, round(left / parameter_count(ResidualBlock(width))))
    return nn.Sequential(embedding, *(ResidualBlock(width) for _ in range(blocks)), nn.LayerNorm(width), output)


class RegressionHead(nn.Module):
    """A head with the interface of `SplitTokenHead` that predicts the feature without random numbers.

    Args:
        mlp: the predictor, (B, D_s) -> (B, D_t).
        distance: "squared" error, or "cosine": 1 minus the cosine similarity, which leaves the norm free.
    """

    draws_features = False

    def __init__(self, feature_dim: int, mlp: nn.Module, distance: Distance = "squared"):
        super().__init__()
        self.feature_dim, self.mlp, self.distance = feature_dim, mlp, distance

    def forward(self, z: Tensor, target: Tensor, draws: None = None) -> dict[str, Tensor]:
        """Return the mean distance (scalar) between predicted and target features (B, D_t)."""
        predicted, target = self.mlp(z).float(), target.float()
        if self.distance == "cosine":
            loss = 1 - F.cosine_similarity(predicted, target).mean()
            return {"loss": loss, "cosine_loss": loss.detach()}
        loss = F.mse_loss(predicted, target)
        return {"loss": loss, "mse": loss.detach()}

    def sample(self, z: Tensor, generator: torch.Generator | None = None, **sampling) -> Tensor:
        """Return the predicted features (B, 1, D_t), without randomness."""
        return self.mlp(z).float()[:, None]
