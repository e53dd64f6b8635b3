"""What the methods share whose student's feature, projected to the teacher's width, learns from the teacher's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.ranges import Amount
from gendd.data.batch import Batch
from gendd.methods.base import DistillationTask, Method, TaskContext
from gendd.networks.create import feature_width, pooled_feature

if TYPE_CHECKING:
    from gendd.config import Config

# Projected features and the teacher's, (B, D_t) float32 -> the loss, a scalar.
FeatureLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ProjectedMethod(Method):
    """How much the teacher's features weigh."""

    feature_weight: Amount = 1.0
    """w, weight of what is learned from the teacher's features."""

    def needs_classifier(self, config: "Config") -> bool:
        return False


class ProjectedStudent(nn.Module):
    """A backbone, which is evaluated alone, and the projector of its pooled feature, (B, D_s) -> (B, D_t)."""

    def __init__(self, backbone: nn.Module, projector: nn.Module):
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, C); in training, the projected features (B, D_t) too."""
        if not self.training:
            return self.backbone(images)
        feature = pooled_feature(self.backbone, images)
        return self.backbone.get_classifier()(feature), self.projector(feature)


class ProjectedTask(DistillationTask):
    """loss = CE + w kd_loss."""

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


def widths(context: TaskContext) -> tuple[int, int]:
    """D_s and D_t."""
    return feature_width(context.student), context.needed_teacher.width
