"""Stage 1: cross-entropy of the student's projected feature through the teacher's frozen classifier."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.data.batch import Batch
from gendd.methods.base import DistillationTask, Method, TaskContext
from gendd.methods.options import PretrainOptions
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width, frozen_copy, pooled_feature

if TYPE_CHECKING:
    from gendd.config import Config

# {field of the stage 1 run: option of the whole run that sets it}.
SET_BY = {
    "epochs": "pretrain_epochs",
    "lr": "pretrain_lr",
    "crop_scale": "pretrain_crop_scale",
    "name": "pretrain_name",
}


class PretrainStudent(nn.Module):
    """Backbone, projection to the teacher's width (identity if the widths agree), and the teacher's classifier."""

    def __init__(self, backbone: nn.Module, classifier: nn.Linear):
        super().__init__()
        self.backbone = backbone
        width, teacher_width = feature_width(backbone), classifier.in_features
        self.projection = nn.Identity() if width == teacher_width else nn.Linear(width, teacher_width)
        self.classifier = frozen_copy(classifier)
        # The backbone's classifier is the linear probe of the next stage; this stage does not train it.
        backbone.get_classifier().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.projection(pooled_feature(self.backbone, images)))


class PretrainTask(DistillationTask):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.trainable_module(batch.images)
        return {"loss": F.cross_entropy(logits.float(), self.training_targets(batch)), "output": logits}

    def parameters_used(self, model: PretrainStudent) -> int:
        return parameter_count(model) - parameter_count(model.backbone.get_classifier())


@dataclass(frozen=True)
class Pretrain(Method):
    """Stage 1 of gendd alone: train the student's feature through the teacher's frozen classifier."""

    name, feature, unlabeled = "pretrain", "without labels", True

    def build(self, context: TaskContext) -> PretrainTask:
        return PretrainTask(PretrainStudent(context.student, context.needed_teacher.model.get_classifier()), context)


def pretraining(config: "Config", options: PretrainOptions) -> "Config | None":
    """Return the configuration of stage 1, or None: cosine schedule, beta2 constant at its end value, first teacher."""
    if not options.pretrain_epochs:
        return None
    optimizer = replace(
        config.optimizer,
        epochs=options.pretrain_epochs,
        lr=options.pretrain_lr or config.optimizer.lr,
        head_lr=None,
        schedule="cosine",
        warmup_epochs=0,
        beta2_start=config.optimizer.beta2_end,
    )
    run = replace(config.run, name=options.pretrain_name, resume=None, out=None)
    networks = replace(config.networks, more_teachers=())
    if networks.grad_checkpointing == "head":  # Stage 1 does not have one.
        networks = replace(networks, grad_checkpointing="none")
    data = config.data.pretraining()
    return replace(config, networks=networks, data=data, method=Pretrain(), optimizer=optimizer, run=run)
