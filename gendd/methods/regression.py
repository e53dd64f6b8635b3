"""The control of GenDD: the same student and targets, but the head predicts the feature, by squared error."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.denoiser import ResidualBlock
from gendd.head import SplitTokenHead
from gendd.methods.base import TaskContext
from gendd.methods.gendd import GenDDTask
from gendd.networks import feature_width, parameter_count
from gendd.randomness import StepRandom
from gendd.student import Student


class RegressionHead(nn.Module):
    """A residual MLP, (B, D_s) -> (B, D_t), as wide as `SplitTokenHead`'s denoiser.

    Args:
        size: number of parameters, met to half a block.
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
        """Mean squared error (scalar) of the predicted and the target features (B, D_t)."""
        loss = F.mse_loss(self.mlp(z).float(), target.float())
        return {"loss": loss, "mse": loss.detach()}

    def sample(self, z: Tensor, generator: torch.Generator | None = None, **sampling) -> Tensor:
        """The predicted features (B, 1, D_t); there is nothing to sample."""
        return self.mlp(z).float()[:, None]


class RegressionTask(GenDDTask):
    def draws(self, random: StepRandom, device: torch.device) -> None:
        """Nothing is random."""


def build(context: TaskContext) -> RegressionTask:
    config, classifier = context.config, context.teacher.classifier
    widths = (classifier.in_features, feature_width(context.student))
    with torch.random.fork_rng(devices=[]):  # What is only counted changes no draw.
        size = parameter_count(SplitTokenHead(*widths, **config.head()))
    head = RegressionHead(*widths, config.width, size)
    return RegressionTask(Student(context.student, head, classifier), context)
