"""Cross-entropy with labels: how teachers are trained, and the student alone."""

from timm.task import ClassificationTask

from gendd.methods.base import TaskContext


def build(context: TaskContext) -> ClassificationTask:
    return ClassificationTask(context.student, criterion_kwargs={}, device=context.device, verbose=False)
