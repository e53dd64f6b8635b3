"""The control of GenDD: the same student and targets, but the head predicts the feature with squared error."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.seeding import StepRandom
from gendd.diffusion.denoiser import ResidualBlock
from gendd.diffusion.head import SplitTokenHead
from gendd.distillation.student import Student
from gendd.methods.base import TaskContext
from gendd.methods.gendd import GenDD, GenDDTask
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width

if TYPE_CHECKING:
    pass


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


class RegressionTask(GenDDTask):
    def draws(self, random: StepRandom, device: torch.device) -> None:
        """Return None: the loss does not use random numbers."""


class Regression(GenDD):
    """The control of gendd: the head predicts the feature with squared error. It uses gendd's options of sizes."""

    name = "regression"

    def build(self, context: TaskContext) -> RegressionTask:
        teacher = context.needed_teacher
        widths = (teacher.width, feature_width(context.student))
        with torch.random.fork_rng(devices=[]):  # This head is only counted: keep the random state.
            size = parameter_count(SplitTokenHead(*widths, **self.fitting(teacher.width)))
        head = RegressionHead(*widths, self.width, size)
        student = Student(context.student, head, teacher.classifier, self.standardizes(teacher.classifier))
        return RegressionTask(self, student, context)

    def check_sampling(self) -> None:
        """Accept all values: nothing is sampled."""

    def describe_head(self, head: nn.Module) -> list[str]:
        return ["squared error"]
