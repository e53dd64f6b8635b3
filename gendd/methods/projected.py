"""Shared parts of the methods that project the student's feature and compare it to the teacher's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.ranges import Amount
from gendd.data.batch import Batch
from gendd.methods.base import DistillationTask, Method, TaskContext
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width, pooled_feature

if TYPE_CHECKING:
    from gendd.config import Config

# (projected features, teacher features), each (B, D_t) float32 -> loss, a scalar.
FeatureLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProjectedMethod(Method):
    """A method with a loss between projected features and teacher features."""

    feature_weight: Amount = 1.0
    """Weight of the feature loss, w."""

    def needs_classifier(self, config: "Config") -> bool:
        return False


class ProjectedStudent(nn.Module):
    """A backbone and the projector of its pooled feature, (B, D_s) -> (B, D_t). Evaluation uses only the backbone."""

    def __init__(self, backbone: nn.Module, projector: nn.Module):
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits (B, C), in training also the projected features (B, D_t)."""
        if not self.training:
            return self.backbone(images)
        feature = pooled_feature(self.backbone, images)
        return self.backbone.get_classifier()(feature), self.projector(feature)


class ProjectedTask(DistillationTask):
    """A task with loss = CE + w kd_loss."""

    def __init__(self, projector: nn.Module, loss: FeatureLoss, weight: float, context: TaskContext):
        super().__init__(ProjectedStudent(context.student, projector), context)
        self.loss, self.weight = loss, weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        target = self.teacher.features(batch)
        logits, projected = self.trainable_module(batch.images)
        task_loss = F.cross_entropy(logits.float(), batch.labels)
        kd_loss = self.weight * self.loss(projected.float(), target)
        terms = {"task_loss": task_loss.detach(), "kd_loss": kd_loss.detach()}
        return {"loss": task_loss + kd_loss, **terms, "output": logits}

    def parameters_used(self, model: ProjectedStudent) -> int:
        return parameter_count(model.backbone)


def widths(context: TaskContext) -> tuple[int, int]:
    """Return the feature widths of student and teacher, D_s and D_t."""
    return feature_width(context.student), context.needed_teacher.width
