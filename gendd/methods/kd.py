"""Logit distillation (Hinton et al., 2015), timm's task: w CE + (1 - w) T^2 KL(teacher || student) at T."""

from timm.task import LogitDistillationTask

from gendd.methods.base import Ingredients


def build(ingredients: Ingredients) -> LogitDistillationTask:
    return LogitDistillationTask(
        ingredients.student,
        ingredients.teacher,
        criterion_kwargs={},
        task_loss_weight=ingredients.config.label_share,
        temperature=ingredients.config.temperature,
        device=ingredients.device,
        verbose=False,
    )
