"""SRD (Miles and Mikolajczyk, 2024): CE + w log sum_i |BN(P h)_i - BN(f)_i|^4 with a linear projector P.

With the logarithm, the gradient does not grow with the distance; the fourth power emphasizes the largest errors.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedMethod, ProjectedTask, widths

POWER = 4
EPSILON = 1e-4


def log_sum(projected: Tensor, feature: Tensor) -> Tensor:
    """Return the loss of features (B, D_t), normalized over the batch; the sum runs over images and dimensions."""
    student, teacher = (F.batch_norm(values, None, None, training=True, eps=EPSILON) for values in (projected, feature))
    return (student - teacher).abs().pow(POWER).sum().log()


@dataclass(frozen=True)
class SRD(ProjectedMethod):
    """Logarithm of the summed fourth powers between projected and teacher features, normalized over the batch."""

    name, fewest_images = "srd", 2

    def build(self, context: TaskContext) -> ProjectedTask:
        return ProjectedTask(nn.Linear(*widths(context)), log_sum, self.feature_weight, context)
