"""Cross-entropy with labels: how teachers are trained, and the student alone."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from gendd.data import Batch
from gendd.methods.base import Method, Task, TaskContext


class ClassificationTask(Task):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable_module(batch.images)
        return {"loss": F.cross_entropy(logits.float(), batch.labels), "output": logits}


class Classification(Method):
    """Cross-entropy with labels: the student alone, or a teacher."""

    name, needs_teacher, feature = "classification", False, "never"

    def build(self, context: TaskContext) -> ClassificationTask:
        return ClassificationTask(context.student, context)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Classification | None":
        """A plain network, by whatever logits it has learned."""
        return None if any(name.startswith("backbone.") for name in tensors) else cls()
