"""Improved KL distillation, IKL-KD (Cui et al., 2024): CE + alpha SCE + beta wMSE."""

import torch.nn.functional as F
from torch import Tensor

from gendd.methods.base import TaskContext
from gendd.methods.logits import LogitTask


def weighted_pairwise_error(teacher_logits: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
    """1/4 sum_jk p_j p_k ((o_j - o_k) - (o'_j - o'_k))^2 for weights p (B, C) of sum 1, (B,) of logits (B, C).

    It is half the variance of o - o' under p, which needs no pairs.
    """
    apart = teacher_logits - logits
    mean = (weights * apart).sum(-1, keepdim=True)
    return 0.5 * (weights * (apart - mean) ** 2).sum(-1)


def build(context: TaskContext) -> LogitTask:
    config = context.config

    def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        teacher = (teacher_logits / config.temperature).softmax(-1)
        soft_cross_entropy = F.cross_entropy(logits / config.temperature, teacher)
        error = weighted_pairwise_error(teacher_logits, logits, teacher).mean()
        return F.cross_entropy(logits, labels), config.alpha * soft_cross_entropy + config.beta * error

    return LogitTask(context, losses, config.distill_warmup_epochs)
