"""The loss of logit distillation (Hinton et al., 2015)."""

import torch.nn.functional as F
from torch import Tensor


def divergence(teacher_logits: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student), (B,), of the softmax of logits (B, C) at temperature T."""
    teacher, student = ((values / temperature).log_softmax(-1) for values in (teacher_logits, logits))
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
