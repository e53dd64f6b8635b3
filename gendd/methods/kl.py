"""The teacher's probabilities alone, without labels: T^2 KL(teacher || student) at temperature T."""

from torch import Tensor

from gendd.methods.base import Ingredients
from gendd.methods.logits import LogitTask, divergence


def build(ingredients: Ingredients) -> LogitTask:
    temperature = ingredients.config.temperature

    def losses(logits: Tensor, taught: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return logits.new_zeros(()), divergence(taught, logits, temperature).mean()

    return LogitTask(ingredients, losses)
