"""Feature distillation: CE + beta MSE of the student's feature, projected if the widths differ, and the teacher's."""

import torch.nn.functional as F
from torch import nn

from gendd.methods.base import TaskContext
from gendd.methods.projected import ProjectedTask, widths


def build(context: TaskContext) -> ProjectedTask:
    width, teacher_width = widths(context)
    projector = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width)
    return ProjectedTask(projector, F.mse_loss, context)
