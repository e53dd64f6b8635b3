"""SRD (Miles and Mikolajczyk, 2024): CE + w log sum_i |BN(P h)_i - BN(f)_i|^4 with a linear projector P.

The logarithm keeps the gradient from growing with the distance, the fourth power looks at what fits worst.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedMethod, ProjectedTask, widths

POWER = 4
EPSILON = 1e-4


def log_sum(projected: Tensor, feature: Tensor) -> Tensor:
    """The loss of features (B, D_t), each normalized over the batch; the sum runs over images and dimensions."""
    ours, theirs = (F.batch_norm(values, None, None, training=True, eps=EPSILON) for values in (projected, feature))
    return (ours - theirs).abs().pow(POWER).sum().log()


@dataclass(frozen=True)
class SRD(ProjectedMethod):
    """Projected features, normalized over the batch, by the logarithm of summed fourth powers."""

    name = "srd"

    def build(self, context: TaskContext) -> ProjectedTask:
        return ProjectedTask(nn.Linear(*widths(context)), log_sum, self.feature_weight, context)
