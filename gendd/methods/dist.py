"""DIST (Huang et al., 2022): CE + beta inter-class + gamma intra-class loss, by Pearson's correlation.

Pearson's correlation compares relations between classes (and between images), not the values themselves.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gendd.core.ranges import Amount, Positive
from gendd.methods.base import Method, TaskContext
from gendd.methods.dense import DenseOptions
from gendd.methods.logits import LogitTask


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean (scalar) over the rows of (B, C) of 1 - Pearson's correlation."""
    centered = (values - values.mean(-1, keepdim=True) for values in (student, teacher))
    return 1 - F.cosine_similarity(*centered, dim=-1).mean()


def relations(teacher_logits: Tensor, logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return T^2 times the inter-class and the intra-class loss (scalars) of logits (B, C) at temperature T.

    The inter-class loss compares each image's probabilities over the classes, the intra-class loss each class's
    probabilities over the images of the batch.
    """
    teacher, student = ((values / temperature).softmax(-1) for values in (teacher_logits, logits))
    return temperature**2 * decorrelation(student, teacher), temperature**2 * decorrelation(student.T, teacher.T)


@dataclass(frozen=True)
class DIST(DenseOptions, Method):
    """Correlation of student's and teacher's probabilities over classes and over images."""

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

        return LogitTask(self, context, losses)
