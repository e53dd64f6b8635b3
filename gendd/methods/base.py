"""What GenDD's own tasks share: a trained module under DDP, and a frozen teacher that is not."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gendd.config import TrainConfig
from gendd.randomness import StepRandom
from gendd.teacher import FrozenTeacher


@dataclass(frozen=True)
class TaskContext:
    """What a method may build its task from.

    `student` is the bare backbone. `weights` are the tensors it starts from, by this project's names; those of the
    backbone are already loaded.
    """

    config: TrainConfig
    student: nn.Module
    teacher: FrozenTeacher | None
    weights: dict[str, Tensor]
    device: torch.device


class DistillationTask(TrainingTask):
    """A task with a frozen teacher. The training loop sets `random` before each call, and `epoch`, counted from 1.

    Args:
        trainable: module that holds every trained parameter.
        context: the student's normalization is the one that images come in. Where labels are not known, the
            teacher's probabilities stand in for them.
    """

    random: StepRandom
    epoch: int = 1
    # Teacher's features (B, D_t) of the images of a micro-batch, where they are cached.
    cached_feature: Callable[[StepRandom], Tensor] | None = None

    def __init__(self, trainable: nn.Module, context: TaskContext):
        super().__init__(device=context.device, verbose=False)
        self.trainable_module = trainable
        self.teacher = context.teacher
        self.unlabeled, self.lacks_labels = context.config.unlabeled, context.config.lacks_labels
        for name in ("mean", "std"):
            values = torch.tensor(context.student.pretrained_cfg[name]).view(1, -1, 1, 1)
            self.register_buffer(f"student_{name}", values, persistent=False)

    @property
    def teacher_classifier(self) -> nn.Linear:
        return self.teacher.model.get_classifier()

    @torch.no_grad()
    def teacher_feature(self, images: Tensor) -> Tensor:
        """Teacher's pooled feature (B, D_t) float32 of images in the student's normalization."""
        images = self.teacher.normalize_input(images, self.student_mean, self.student_std)
        return self.teacher(images, return_features=True).float()

    def training_feature(self, images: Tensor) -> Tensor:
        """`teacher_feature` of the training images that the loop has set `random` for; cached, it runs no teacher."""
        if self.cached_feature is None:
            return self.teacher_feature(images)
        return self.cached_feature(self.random).to(images.device).float()

    @torch.no_grad()
    def class_targets(self, feature: Tensor, labels: Tensor) -> Tensor:
        """The labels (B,), or, if a run lacks some, soft labels (B, C): the teacher's probabilities for its features
        (B, D_t) in the rows without a label, which is -1. With `unlabeled` in all rows, and no label is read."""
        if not self.lacks_labels:
            return labels
        probabilities = self.teacher_classifier(feature).float().softmax(-1)
        if self.unlabeled:
            return probabilities
        known = F.one_hot(labels.clamp(min=0), probabilities.shape[-1]).to(probabilities)
        return torch.where((labels >= 0)[:, None], known, probabilities)

    def training_targets(self, images: Tensor, labels: Tensor) -> Tensor:
        """`class_targets` of training images. Where all labels are known, no teacher runs."""
        return self.class_targets(self.training_feature(images), labels) if self.lacks_labels else labels

    def train(self, mode: bool = True) -> "DistillationTask":
        super().train(mode)
        self.teacher.eval()
        return self

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs) -> "DistillationTask":
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs) -> nn.Module:
        # In place: names of parameters stay as they are.
        self.trainable_module.compile(backend=backend, mode=mode, **compile_kwargs)
        self.teacher.compile(backend=backend, mode=mode, compile_model=False, compile_features=True, **compile_kwargs)
        return self.trainable_module
