"""The teacher's probabilities alone, without labels: T^2 KL(teacher || student) at temperature T."""

from torch import Tensor

from gendd.methods.base import TaskContext
from gendd.methods.logits import LogitTask, divergence


def build(context: TaskContext) -> LogitTask:
    temperature = context.config.temperature

    def losses(logits: Tensor, teacher_logits: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return logits.new_zeros(()), divergence(teacher_logits, logits, temperature).mean()

    return LogitTask(context, losses)
