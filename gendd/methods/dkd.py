"""Decoupled knowledge distillation (Zhao et al., 2022): CE + alpha TCKD + beta NCKD."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gendd.core.ranges import Amount, Positive
from gendd.distillation.divergence import divergence
from gendd.methods.base import Method, TaskContext
from gendd.methods.dense import DenseOptions
from gendd.methods.logits import LogitTask, compared


def decoupled(teacher_logits: Tensor, logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return T^2 KL of "the target class or not" (TCKD) and of the softmax over the other classes (NCKD), each (B,).

    TCKD + (1 - p_t) NCKD = T^2 KL(teacher || student), with p_t the teacher's probability of the target class.

    Args:
        teacher_logits, logits: logits of teacher and student, (B, C).
        labels: (B,) classes.
    """
    count = logits.shape[-1]
    target = labels[:, None]
    # Places of the other classes: those after the target move up by one. A mask would synchronize the GPU.
    place = torch.arange(count - 1, device=labels.device)
    places = place + (place >= target)
    teacher_others, others = (values.gather(1, places) for values in (teacher_logits, logits))

    def target_or_not(values: Tensor, other: Tensor) -> Tensor:
        """Return logits (B, 2) whose softmax at temperature 1 gives both probabilities at temperature T."""
        return torch.stack([values.gather(1, target)[:, 0] / temperature, (other / temperature).logsumexp(-1)], -1)

    binary = divergence(target_or_not(teacher_logits, teacher_others), target_or_not(logits, others), 1.0)
    return temperature**2 * binary, divergence(teacher_others, others, temperature)


@dataclass(frozen=True)
class DKD(DenseOptions, Method):
    """Decoupled distillation: separate losses for the target class and for the other classes."""

    temperature: Positive = 4.0
    """Softmax temperature."""
    alpha: Amount = 1.0
    """Weight of the loss of the target class."""
    beta: Amount = 8.0
    """Weight of the loss of the other classes."""
    distill_warmup_epochs: Amount = 20
    """Epochs of linear warm-up of both weights."""
    logit_standardization: bool = False
    """Standardize the logits of teacher and student per image, before the temperature (Sun et al., 2024)."""

    name = "dkd"

    def build(self, context: TaskContext) -> LogitTask:
        def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            # The target class of a mixed image is the class with the largest share.
            target = labels.argmax(-1) if labels.dim() == 2 else labels
            teacher, student = compared(self.logit_standardization, teacher_logits, logits)
            tckd, nckd = decoupled(teacher, student, target, self.temperature)
            return F.cross_entropy(logits, labels), (self.alpha * tckd + self.beta * nckd).mean()

        return LogitTask(self, context, losses, self.distill_warmup_epochs)
