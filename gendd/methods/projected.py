"""What the methods share whose student's feature, projected to the teacher's width, learns from the teacher's."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.methods.base import Ingredients, TeachingTask
from gendd.networks import feature_width, pooled_feature

# Projected features and the teacher's, (B, D_t) float32 -> the loss, a scalar.
FeatureLoss = Callable[[Tensor, Tensor], Tensor]


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


class ProjectedTask(TeachingTask):
    """loss = CE + beta kd_loss."""

    def __init__(self, projector: nn.Module, loss: FeatureLoss, ingredients: Ingredients):
        super().__init__(ProjectedStudent(ingredients.student, projector), ingredients)
        self.loss, self.weight = loss, ingredients.config.beta

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        target = self.training_feature(images)
        logits, projected = self.trainable_module(images)
        task_loss, kd_loss = F.cross_entropy(logits.float(), labels), self.weight * self.loss(projected.float(), target)
        parts = {"task_loss": task_loss.detach(), "kd_loss": kd_loss.detach()}
        return {"loss": task_loss + kd_loss, **parts, "output": logits}


def widths(ingredients: Ingredients) -> tuple[int, int]:
    """D_s and D_t."""
    return feature_width(ingredients.student), feature_width(ingredients.teacher.model)
