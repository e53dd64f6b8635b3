"""Feature distillation: CE + w MSE between the teacher's feature and the student's, projected if widths differ."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from gendd.core.ranges import Amount
from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedMethod, ProjectedTask, widths


@dataclass(frozen=True)
class Feature(ProjectedMethod):
    """Squared error between the features of student and teacher."""

    feature_weight: Amount = 8.0
    """Weight of the squared error, w."""

    name = "feature"

    def build(self, context: TaskContext) -> ProjectedTask:
        width, teacher_width = widths(context)
        projector = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width)
        return ProjectedTask(projector, F.mse_loss, self.feature_weight, context)
