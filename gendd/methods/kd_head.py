"""KD's loss through a head of GenDD's size: the same parameters and inference cost, without features as targets."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.ranges import Count, Positive, Share
from gendd.data.batch import Batch
from gendd.diffusion.options import HeadOptions
from gendd.distillation.dense import DenseTarget
from gendd.distillation.divergence import divergence
from gendd.distillation.regression_head import RegressionHead
from gendd.distillation.student import Student
from gendd.methods.base import Method, TaskContext
from gendd.methods.dense import DenseOptions, dense_target
from gendd.methods.gendd import HeadTask
from gendd.methods.options import ProbeOptions
from gendd.methods.regression import mlp_of_equal_size


class KDHeadStudent(Student):
    """A student whose head predicts a feature that the teacher's frozen classifier classifies."""

    classifier: nn.Module

    def forward(  # type: ignore[override]
        self, images: Tensor, target: DenseTarget | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the logits (B, C) of head and probe, and the dense loss (scalar; None without a target)."""
        h, dense_loss = self.observe(images, target)
        return self.classifier(self.generate(h)), self.backbone.get_classifier()(self.probed(h)), dense_loss


class KDHeadTask(HeadTask):
    """A task with loss = w CE + (1 - w) T^2 KL(teacher || student) of the head's logits + the probe's CE.

    A probe whose gradient reaches the backbone has the loss of the head. A dense term adds its weighted loss.
    """

    def __init__(self, method: "KDHead", student: KDHeadStudent, context: TaskContext):
        super().__init__(method, student, context, student.head)
        self.dense = student.dense
        self.temperature, self.label_share = method.temperature, method.label_share
        self.probe_gradient = method.probe_gradient

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        feature, feature_map = self.teacher.features_and_map(batch)
        teacher_logits = self.teacher.classify(feature).float()
        target = dense_target(self.dense, feature_map, batch.random, batch.images.device)
        logits, probe, dense_loss = self.trainable_module(batch.images, target)
        task_loss, kd_loss = self.kd_losses(logits, teacher_logits, batch.labels)
        if self.probe_gradient:
            probe_loss = sum(self.kd_losses(probe, teacher_logits, batch.labels))
        else:
            probe_loss = F.cross_entropy(probe.float(), batch.labels)
        terms = {"task_loss": task_loss, "kd_loss": kd_loss, "probe_loss": probe_loss}
        losses = {"loss": sum(terms.values()), **{name: term.detach() for name, term in terms.items()}}
        if self.dense:
            losses = self.dense.added(losses, dense_loss)
        return {**losses, "output": probe}

    def kd_losses(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return both terms of KD's loss of logits (B, C): the cross-entropy, and the divergence from the teacher."""
        kl = divergence(teacher_logits, logits.float(), self.temperature).mean()
        return self.label_share * F.cross_entropy(logits.float(), labels), (1 - self.label_share) * kl


@dataclass(frozen=True)
class KDHead(DenseOptions, ProbeOptions, Method):
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
        dense = self.build_dense(context)
        student = KDHeadStudent(
            context.student, head, teacher.classifier, dense=dense, probe_gradient=self.probe_gradient
        )
        return KDHeadTask(self, student, context)

    def describe_head(self, head: nn.Module) -> list[str]:
        return ["predicts a feature for the teacher's classifier"]
