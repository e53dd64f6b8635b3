"""Stage 1: cross-entropy of the student's feature, projected, through the teacher's frozen classifier."""

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.data import Batch
from gendd.methods.base import DistillationTask, TaskContext
from gendd.methods.gendd import GenDD
from gendd.networks import feature_width, frozen_copy, pooled_feature
from gendd.ranges import field_names

if TYPE_CHECKING:
    from gendd.config import Config


class ProjectedStudent(nn.Module):
    """Backbone, projection to the teacher's width (none where the widths agree), and the teacher's classifier."""

    def __init__(self, backbone: nn.Module, classifier: nn.Linear):
        super().__init__()
        self.backbone = backbone
        width, teacher_width = feature_width(backbone), classifier.in_features
        self.projection = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width)
        self.classifier = frozen_copy(classifier)
        # Not trained in this stage: the linear probe of the next one.
        backbone.get_classifier().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.projection(pooled_feature(self.backbone, images)))


class PretrainTask(DistillationTask):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable_module(batch.images)
        return {"loss": F.cross_entropy(logits.float(), self.training_targets(batch)), "output": logits}


class Pretrain(GenDD):
    """Stage 1 of gendd, whose options it takes, so that both stages can have the same flags; it depends on none."""

    name, feature = "pretrain", "without labels"
    idle = frozenset(field_names(GenDD))

    def build(self, context: TaskContext) -> PretrainTask:
        return PretrainTask(ProjectedStudent(context.student, context.teacher.classifier), context)

    def check(self, config: "Config") -> None:
        """Its options do nothing."""

    def describe(self) -> str:
        return self.name

    def needs_classifier(self, config: "Config") -> bool:
        return True

    needs_pairs = False
