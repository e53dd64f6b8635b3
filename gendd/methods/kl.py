"""KL divergence from the teacher's probabilities, without labels: T^2 KL(teacher || student) at temperature T."""

from dataclasses import dataclass

from torch import Tensor

from gendd.core.ranges import Positive
from gendd.distillation.divergence import divergence
from gendd.methods.base import Method, TaskContext
from gendd.methods.dense import DenseOptions
from gendd.methods.logits import LogitTask


@dataclass(frozen=True)
class KL(DenseOptions, Method):
    """KL divergence from the teacher's probabilities, without labels."""

    temperature: Positive = 4.0
    """Softmax temperature."""

    name, unlabeled, labeled = "kl", True, False

    def build(self, context: TaskContext) -> LogitTask:
        def losses(logits: Tensor, teacher_logits: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            return logits.new_zeros(()), divergence(teacher_logits, logits, self.temperature).mean()

        return LogitTask(self, context, losses)
