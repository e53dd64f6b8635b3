"""Cross-entropy with labels: how teachers are trained, and the student alone."""

from timm.task import ClassificationTask

from gendd.methods.base import Ingredients


def build(ingredients: Ingredients) -> ClassificationTask:
    return ClassificationTask(ingredients.student, criterion_kwargs={}, device=ingredients.device, verbose=False)
