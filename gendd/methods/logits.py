"""Shared parts of the methods that learn from the teacher's logits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gendd.data.batch import Batch
from gendd.distillation.dense import DenseStudent
from gendd.methods.base import DistillationTask, TaskContext
from gendd.methods.dense import DenseOptions, dense_target
from gendd.networks.cost import parameter_count

# (student's logits, teacher's logits, labels) -> weighted losses (scalars) from the labels and from the teacher. Logits
# are (B, C) float32; labels are (B,) classes or (B, C) probabilities.
Losses = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def standardized(logits: Tensor) -> Tensor:
    """Return logits (B, C) with mean 0 and standard deviation 1 in each row (Sun et al., 2024)."""
    std, mean = torch.std_mean(logits, dim=-1, keepdim=True)
    return (logits - mean) / (std + 1e-7)


def compared(standardize: bool, *logits: Tensor) -> tuple[Tensor, ...]:
    """Return the logits of teacher and student for the loss, standardized if requested."""
    return tuple(map(standardized, logits)) if standardize else logits


class LogitTask(DistillationTask):
    """A task with loss = task_loss + min(epoch / warm-up, 1) kd_loss + w dense_loss; epochs count from 1.

    Args:
        options: the options of the dense term.
        losses: computes task_loss and kd_loss.
        warmup_epochs: epochs of linear warm-up of kd_loss; 0 is without warm-up.
    """

    def __init__(self, options: DenseOptions, context: TaskContext, losses: Losses, warmup_epochs: float = 0):
        dense = options.build_dense(context)
        super().__init__(DenseStudent(context.student, dense) if dense else context.student, context)
        self.dense, self.losses, self.warmup_epochs = dense, losses, warmup_epochs

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        feature, feature_map = self.teacher.features_and_map(batch)
        teacher_logits = self.teacher.classify(feature).float()
        if self.dense:
            target = dense_target(self.dense, feature_map, batch.random, batch.images.device)
            logits, dense_loss = self.trainable_module(batch.images, target)
        else:
            logits = self.trainable_module(batch.images)
        task_loss, kd_loss = self.losses(logits.float(), teacher_logits, batch.labels)
        weight = min(batch.epoch / self.warmup_epochs, 1) if self.warmup_epochs else 1
        terms = {"task_loss": task_loss.detach(), "kd_loss": kd_loss.detach()}
        losses = {"loss": task_loss + weight * kd_loss, **terms}
        if self.dense:
            losses = self.dense.added(losses, dense_loss)
        return {**losses, "output": logits}

    def parameters_used(self, model: nn.Module) -> int:
        return parameter_count(model.backbone if self.dense else model)
