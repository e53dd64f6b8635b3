"""DIST (Huang et al., 2022): CE + alpha inter-class + beta intra-class loss, by Pearson's correlation.

A correlation asks that the student rank classes (and images) as the teacher does, not that it repeat its values.
"""

import torch.nn.functional as F
from torch import Tensor

from gendd.methods.base import TaskContext
from gendd.methods.logits import LogitTask


def decorrelation(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean (scalar) over the rows of (B, C) of 1 - Pearson's correlation."""
    centered = (values - values.mean(-1, keepdim=True) for values in (ours, theirs))
    return 1 - F.cosine_similarity(*centered, dim=-1).mean()


def relations(teacher_logits: Tensor, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 times the inter-class loss, of each image's probabilities over the classes, and the intra-class loss, of
    each class's probabilities over the images of the batch; scalars of logits (B, C) at temperature T."""
    teacher, student = ((values / temperature).softmax(-1) for values in (teacher_logits, logits))
    return temperature**2 * decorrelation(student, teacher), temperature**2 * decorrelation(student.T, teacher.T)


def build(context: TaskContext) -> LogitTask:
    config = context.config

    def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inter, intra = relations(teacher_logits, logits, config.temperature)
        return F.cross_entropy(logits, labels), config.alpha * inter + config.beta * intra

    return LogitTask(context, losses)
