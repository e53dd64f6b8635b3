"""DIST (Huang et al., 2022): CE + beta inter-class + gamma intra-class loss, by Pearson's correlation.

A correlation asks that the student rank classes (and images) as the teacher does, not that it repeat its values.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gendd.core.ranges import Amount, Positive
from gendd.methods.base import Method, TaskContext
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


@dataclass(frozen=True)
class DIST(Method):
    """Correlation of the probabilities, between classes and between images."""

    temperature: Positive = 4.0
    """Softmax temperature."""
    beta: Amount = 2.0
    """Weight of the inter-class loss."""
    gamma: Amount = 2.0
    """Weight of the intra-class loss."""

    name = "dist"

    def build(self, context: TaskContext) -> LogitTask:
        def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            inter, intra = relations(teacher_logits, logits, self.temperature)
            return F.cross_entropy(logits, labels), self.beta * inter + self.gamma * intra

        return LogitTask(context, losses)
