"""Cross-entropy with labels, to train a teacher or a student alone."""

import torch.nn.functional as F
from torch import Tensor

from gendd.data.batch import Batch
from gendd.methods.base import Method, Task, TaskContext


class ClassificationTask(Task):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable_module(batch.images)
        return {"loss": F.cross_entropy(logits.float(), batch.labels), "output": logits}


class Classification(Method):
    """Cross-entropy with labels: the student alone, or a teacher."""

    name, needs_teacher, feature = "classification", False, "never"

    def build(self, context: TaskContext) -> ClassificationTask:
        return ClassificationTask(context.student)
