"""VkD (Miles et al., 2024): CE + w squared error of an orthogonal projection and the standardized teacher feature.

An orthogonal projection keeps all distances: it cannot learn in the student's place.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedMethod, ProjectedTask, widths

EPSILON = 1e-4


def standardized_error(projected: Tensor, feature: Tensor) -> Tensor:
    """Mean squared error (scalar) of (B, D_t) and the teacher's feature, of mean 0 and variance 1 over the batch."""
    return F.mse_loss(projected, F.batch_norm(feature, None, None, training=True, eps=EPSILON))


@dataclass(frozen=True)
class VkD(ProjectedMethod):
    """Orthogonally projected features and the teacher's, standardized over the batch."""

    name = "vkd"

    def build(self, context: TaskContext) -> ProjectedTask:
        # By the matrix exponential of a skew-symmetric matrix: columns (or, to a narrower teacher, rows) stay
        # orthonormal.
        projector = orthogonal(nn.Linear(*widths(context), bias=False), orthogonal_map="matrix_exp")
        return ProjectedTask(projector, standardized_error, self.feature_weight, context)
