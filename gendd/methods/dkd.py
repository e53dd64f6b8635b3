"""Decoupled knowledge distillation (Zhao et al., 2022): CE + alpha TCKD + beta NCKD."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gendd.core.ranges import Amount, Positive
from gendd.methods.base import Method, TaskContext
from gendd.methods.logits import LogitTask, compared, divergence


def decoupled(teacher_logits: Tensor, logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """T^2 KL of "the target class or not" (TCKD), and of the softmax over the other classes (NCKD), each (B,).

    TCKD + (1 - p_t) NCKD = T^2 KL(teacher || student), with p_t the teacher's probability of the target class.

    Args:
        teacher_logits, logits: teacher's and student's (B, C); labels: (B,) classes.
    """
    count = logits.shape[-1]
    is_target = F.one_hot(labels, count).bool()
    their_others, our_others = (values[~is_target].view(-1, count - 1) for values in (teacher_logits, logits))

    def target_or_not(values: Tensor, other: Tensor) -> Tensor:
        """Logits (B, 2) at temperature 1, whose softmax is the probabilities of both at temperature T."""
        return torch.stack([values[is_target] / temperature, (other / temperature).logsumexp(-1)], -1)

    binary = divergence(target_or_not(teacher_logits, their_others), target_or_not(logits, our_others), 1.0)
    return temperature**2 * binary, divergence(their_others, our_others, temperature)


@dataclass(frozen=True)
class DKD(Method):
    """Decoupled distillation: of the target class, and of the other classes."""

    temperature: Positive = 4.0
    """Softmax temperature."""
    alpha: Amount = 1.0
    """Weight of the target class's loss."""
    beta: Amount = 8.0
    """Weight of the other classes' loss."""
    distill_warmup_epochs: Amount = 20
    """Epochs until both have their whole weights."""
    logit_standardization: bool = False
    """Standardize each image's logits, the teacher's and the student's, before the temperature (Sun et al., 2024)."""

    name = "dkd"

    def build(self, context: TaskContext) -> LogitTask:
        def losses(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            # Of mixed images, the class that has the most of them.
            target = labels.argmax(-1) if labels.dim() == 2 else labels
            theirs, ours = compared(self.logit_standardization, teacher_logits, logits)
            tckd, nckd = decoupled(theirs, ours, target, self.temperature)
            return F.cross_entropy(logits, labels), (self.alpha * tckd + self.beta * nckd).mean()

        return LogitTask(context, losses, self.distill_warmup_epochs)
