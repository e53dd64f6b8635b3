"""A head that predicts the feature with squared error, the control of the generative head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.diffusion.denoiser import ResidualBlock
from gendd.networks.cost import parameter_count


class RegressionHead(nn.Module):
    """A residual MLP, (B, D_s) -> (B, D_t), as wide as `SplitTokenHead`'s denoiser.

    Args:
        size: number of parameters. The head has this size up to half a block.
    """

    draws_features = False

    def __init__(self, feature_dim: int, cond_dim: int, width: int, size: int):
        super().__init__()
        self.feature_dim = feature_dim
        embedding, output = nn.Linear(cond_dim, width), nn.Linear(width, feature_dim)
        left = size - parameter_count(embedding) - parameter_count(output)
        blocks = max(1, round(left / parameter_count(ResidualBlock(width))))
        self.mlp = nn.Sequential(embedding, *(ResidualBlock(width) for _ in range(blocks)), nn.LayerNorm(width), output)

    def forward(self, z: Tensor, target: Tensor, draws: None = None) -> dict[str, Tensor]:
        """Return the mean squared error (scalar) between predicted and target features (B, D_t)."""
        loss = F.mse_loss(self.mlp(z).float(), target.float())
        return {"loss": loss, "mse": loss.detach()}

    def sample(self, z: Tensor, generator: torch.Generator | None = None, **sampling) -> Tensor:
        """Return the predicted features (B, 1, D_t), without randomness."""
        return self.mlp(z).float()[:, None]
