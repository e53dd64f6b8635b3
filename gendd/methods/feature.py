"""Feature distillation, timm's task: CE + beta MSE of the student's projected feature and the teacher's."""

from timm.task import FeatureDistillationTask

from gendd.methods.base import Ingredients


def build(ingredients: Ingredients) -> FeatureDistillationTask:
    return FeatureDistillationTask(
        ingredients.student,
        ingredients.teacher,
        criterion_kwargs={},
        distill_loss_weight=ingredients.config.beta,
        device=ingredients.device,
        verbose=False,
    )
