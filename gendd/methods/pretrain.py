"""Stage 1: cross-entropy of the student's feature, projected, through the teacher's frozen classifier."""

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.data import Batch
from gendd.methods.base import DistillationTask, TaskContext
from gendd.networks import feature_width, pooled_feature


class ProjectedStudent(nn.Module):
    """Backbone, projection to the teacher's width (none where the widths agree), and the teacher's classifier."""

    def __init__(self, backbone: nn.Module, classifier: nn.Linear):
        super().__init__()
        self.backbone = backbone
        width, teacher_width = feature_width(backbone), classifier.in_features
        self.projection = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width)
        self.classifier = nn.Linear(teacher_width, classifier.out_features, bias=classifier.bias is not None)
        self.classifier.load_state_dict(classifier.state_dict())
        self.classifier.requires_grad_(False)
        # Not trained in this stage: the linear probe of the next one.
        backbone.get_classifier().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.projection(pooled_feature(self.backbone, images)))


class PretrainTask(DistillationTask):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable_module(batch.images)
        return {"loss": F.cross_entropy(logits.float(), self.training_targets(batch)), "output": logits}


def build(context: TaskContext) -> PretrainTask:
    classifier = context.teacher.classifier
    return PretrainTask(ProjectedStudent(context.student, classifier), context)
