"""Logit distillation (Hinton et al., 2015): w CE + (1 - w) T^2 KL(teacher || student) at temperature T."""

import torch.nn.functional as F
from torch import Tensor

from gendd.methods.base import Ingredients
from gendd.methods.logits import LogitTask, compared, divergence


def build(ingredients: Ingredients) -> LogitTask:
    config = ingredients.config
    temperature, share = config.temperature, config.label_share

    def losses(logits: Tensor, taught: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        apart = divergence(*compared(config, taught, logits), temperature).mean()
        return share * F.cross_entropy(logits, labels), (1 - share) * apart

    return LogitTask(ingredients, losses)
