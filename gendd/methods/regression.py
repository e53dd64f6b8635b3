"""The control of GenDD: the same student and targets, but the head predicts the feature without noise."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gendd.diffusion.head import SplitTokenHead
from gendd.diffusion.options import HeadOptions
from gendd.distillation.regression_head import Distance, RegressionHead, residual_mlp
from gendd.methods.base import TaskContext
from gendd.methods.gendd import GenDD
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width

DESCRIBED = {"mlp": "an MLP", "linear": "a linear layer", "squared": "squared error", "cosine": "1 - cosine"}


@dataclass(frozen=True)
class Regression(GenDD):
    """The control of gendd: the head predicts the feature, without noise. It uses gendd's options of sizes."""

    predictor: Literal["mlp", "linear"] = "mlp"
    """Network of the head: a residual MLP as large as gendd's head, or one linear layer, as in feature distillation."""
    distance: Distance = "squared"
    """Loss of the head: squared error, or 1 - cosine. The cosine does not train the norm of the feature. So R2 means
    nothing then, and where features are standardized, neither does the reported cosine of the head. Compare neighbors,
    or the linear map."""

    name = "regression"

    def build_head(self, context: TaskContext) -> RegressionHead:
        width = context.needed_teacher.width
        if self.predictor == "linear":
            mlp: nn.Module = nn.Linear(feature_width(context.student), width)
        else:
            mlp = mlp_of_equal_size(self, context)
        return RegressionHead(width, mlp, self.distance)

    def sampling(self) -> dict:
        """Return no arguments: nothing is sampled."""
        return {}

    def check_sampling(self) -> None:
        """Accept all values: nothing is sampled."""

    def describe_head(self, head: nn.Module) -> list[str]:
        return [f"predicts the feature by {DESCRIBED[self.predictor]}", DESCRIBED[self.distance]]


def mlp_of_equal_size(options: HeadOptions, context: TaskContext) -> nn.Module:
    """Build an MLP that predicts the feature, with as many parameters as the generative head of these options."""
    feature_dim, cond_dim = context.needed_teacher.width, feature_width(context.student)
    with torch.random.fork_rng(devices=[]):  # This head is only counted: keep the random state.
        size = parameter_count(SplitTokenHead(feature_dim, cond_dim, **options.fitting(feature_dim)))
    return residual_mlp(feature_dim, cond_dim, options.width, size)
