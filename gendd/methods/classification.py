"""Cross-entropy with labels: how teachers are trained, and the student alone."""

import timm.task
from torch import Tensor

from gendd.data import Batch
from gendd.methods.base import TaskContext


class ClassificationTask(timm.task.ClassificationTask):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return super().forward(batch.images, batch.labels)


def build(context: TaskContext) -> ClassificationTask:
    return ClassificationTask(context.student, criterion_kwargs={}, device=context.device, verbose=False)
