"""Logit distillation (Hinton et al., 2015): w CE + (1 - w) T^2 KL(teacher || student) at temperature T."""

import torch.nn.functional as F
from torch import Tensor

from gendd.methods.base import TaskContext
from gendd.methods.logits import LogitTask, compared, divergence


def build(context: TaskContext) -> LogitTask:
    config = context.config
    temperature, share = config.temperature, config.label_share

    def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        apart = divergence(*compared(config, teacher_logits, logits), temperature).mean()
        return share * F.cross_entropy(logits, labels), (1 - share) * apart

    return LogitTask(context, losses)
