"""Logit distillation (Hinton et al., 2015): w CE + (1 - w) T^2 KL(teacher || student) at temperature T."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gendd.core.ranges import Positive, Share
from gendd.distillation.divergence import divergence
from gendd.methods.base import Method, TaskContext
from gendd.methods.dense import DenseOptions
from gendd.methods.logits import LogitTask, compared


@dataclass(frozen=True)
class KD(DenseOptions, Method):
    """Logit distillation: cross-entropy with labels and KL divergence from the teacher at a temperature."""

    temperature: Positive = 4.0
    """Softmax temperature."""
    label_share: Share = 0.1
    """Share of the cross-entropy with labels in the loss."""
    logit_standardization: bool = False
    """Standardize the logits of teacher and student per image, before the temperature (Sun et al., 2024)."""

    name = "kd"

    def build(self, context: TaskContext) -> LogitTask:
        def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            teacher, student = compared(self.logit_standardization, teacher_logits, logits)
            kl = divergence(teacher, student, self.temperature).mean()
            return self.label_share * F.cross_entropy(logits, labels), (1 - self.label_share) * kl

        return LogitTask(self, context, losses)
