"""Improved KL distillation, IKL-KD (Cui et al., 2024): CE + alpha SCE + beta wMSE."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gendd.core.ranges import Amount, Positive
from gendd.methods.base import Method, TaskContext
from gendd.methods.dense import DenseOptions
from gendd.methods.logits import LogitTask


def weighted_pairwise_error(teacher_logits: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """Return 1/4 sum_jk p_j p_k ((o_j - o_k) - (o'_j - o'_k))^2, (B,), of logits o, o' and weights p, each (B, C).

    The weights sum to 1. The value is computed as half the variance of o - o' under p, without a sum over pairs.
    """
    difference = teacher_logits - logits
    mean = (weights * difference).sum(-1, keepdim=True)
    return 0.5 * (weights * (difference - mean) ** 2).sum(-1)


@dataclass(frozen=True)
class IKL(DenseOptions, Method):
    """Improved KL distillation: soft cross-entropy and a weighted squared error of logit differences."""

    temperature: Positive = 4.0
    """Softmax temperature."""
    alpha: Amount = 1.0
    """Weight of the soft cross-entropy."""
    beta: Amount = 8.0
    """Weight of the weighted squared error."""
    distill_warmup_epochs: Amount = 20
    """Epochs of linear warm-up of both weights."""

    name = "ikl"

    def build(self, context: TaskContext) -> LogitTask:
        def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            teacher = (teacher_logits / self.temperature).softmax(-1)
            soft_cross_entropy = F.cross_entropy(logits / self.temperature, teacher)
            error = weighted_pairwise_error(teacher_logits, logits, teacher).mean()
            return F.cross_entropy(logits, labels), self.alpha * soft_cross_entropy + self.beta * error

        return LogitTask(self, context, losses, self.distill_warmup_epochs)
