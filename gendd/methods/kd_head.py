"""KD's loss through a head of GenDD's size: the same parameters and inference cost, without features as targets."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.ranges import Count, Positive, Share
from gendd.data.batch import Batch
from gendd.distillation.regression_head import RegressionHead
from gendd.distillation.student import Student
from gendd.methods.base import Method, TaskContext
from gendd.methods.gendd import HeadTask
from gendd.methods.logits import divergence
from gendd.methods.options import HeadOptions
from gendd.methods.regression import mlp_of_equal_size
from gendd.networks.features import pooled_feature


class KDHeadStudent(Student):
    """A student whose head predicts a feature that the teacher's frozen classifier classifies."""

    classifier: nn.Module

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return the logits (B, C) of head and probe. The probe's gradient does not reach the backbone."""
        h = pooled_feature(self.backbone, images)
        return self.classifier(self.generate(h)), self.backbone.get_classifier()(h.detach())


class KDHeadTask(HeadTask):
    """A task with loss = w CE + (1 - w) T^2 KL(teacher || student) of the head's logits, plus the probe's CE."""

    def __init__(self, method: "KDHead", student: KDHeadStudent, context: TaskContext):
        super().__init__(method, student, context, student.head)
        self.temperature, self.label_share = method.temperature, method.label_share

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        teacher_logits = self.teacher.classify(self.teacher.features(batch)).float()
        logits, probe = self.trainable_module(batch.images)
        task_loss = self.label_share * F.cross_entropy(logits.float(), batch.labels)
        kd_loss = (1 - self.label_share) * divergence(teacher_logits, logits.float(), self.temperature).mean()
        probe_loss = F.cross_entropy(probe.float(), batch.labels)
        terms = {"task_loss": task_loss, "kd_loss": kd_loss, "probe_loss": probe_loss}
        loss = task_loss + kd_loss + probe_loss
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}, "output": probe}


@dataclass(frozen=True)
class KDHead(Method):
    """Logit distillation through a head of GenDD's size, as a baseline of equal parameters and inference cost."""

    temperature: Positive = 4.0
    """Softmax temperature."""
    label_share: Share = 0.1
    """Share of the cross-entropy with labels in the loss of the head."""
    width: Count = 1024
    """Width of the head, which has the size of GenDD's default head of this width."""

    name = "kd-head"

    def build(self, context: TaskContext) -> KDHeadTask:
        teacher = context.needed_teacher
        head = RegressionHead(teacher.width, mlp_of_equal_size(HeadOptions(width=self.width), context))
        return KDHeadTask(self, KDHeadStudent(context.student, head, teacher.classifier), context)

    def describe_head(self, head: nn.Module) -> list[str]:
        return ["predicts a feature for the teacher's classifier"]
