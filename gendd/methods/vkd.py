"""VkD (Miles et al., 2024): CE + w squared error between an orthogonal projection and the standardized teacher feature.

An orthogonal projection preserves all distances, so the student has to learn, not the projection.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedMethod, ProjectedTask, widths

EPSILON = 1e-4


def standardized_error(projected: Tensor, feature: Tensor) -> Tensor:
    """Return the mean squared error (scalar) of (B, D_t) to the teacher's feature, standardized over the batch."""
    return F.mse_loss(projected, F.batch_norm(feature, None, None, training=True, eps=EPSILON))


@dataclass(frozen=True)
class VkD(ProjectedMethod):
    """Squared error between orthogonally projected features and standardized teacher features."""

    name, fewest_images = "vkd", 2

    def build(self, context: TaskContext) -> ProjectedTask:
        # The matrix exponential of a skew-symmetric matrix keeps the columns orthonormal (the rows, if the teacher is
        # narrower).
        projector = orthogonal(nn.Linear(*widths(context), bias=False), orthogonal_map="matrix_exp")
        return ProjectedTask(projector, standardized_error, self.feature_weight, context)
