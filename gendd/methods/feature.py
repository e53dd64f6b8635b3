"""Feature distillation, timm's task: CE + beta MSE of the student's projected feature and the teacher's."""

from timm.task import FeatureDistillationTask

from gendd.methods.base import TaskContext


def build(context: TaskContext) -> FeatureDistillationTask:
    return FeatureDistillationTask(
        context.student,
        context.teacher,
        criterion_kwargs={},
        distill_loss_weight=context.config.beta,
        device=context.device,
        verbose=False,
    )
