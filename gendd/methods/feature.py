"""Feature distillation: CE + w MSE of the student's feature, projected if the widths differ, and the teacher's."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from gendd.core.ranges import Amount
from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedMethod, ProjectedTask, widths


@dataclass(frozen=True)
class Feature(ProjectedMethod):
    """Squared error of the student's and the teacher's features."""

    feature_weight: Amount = 8.0
    """w, weight of the squared error."""

    name = "feature"

    def build(self, context: TaskContext) -> ProjectedTask:
        width, teacher_width = widths(context)
        projector = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width)
        return ProjectedTask(projector, F.mse_loss, self.feature_weight, context)
