"""What GenDD's own tasks share: a trained module under DDP, and a frozen teacher that is not."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gendd.config import TrainConfig
from gendd.randomness import StepRandom
from gendd.teacher import FrozenTeacher


@dataclass(frozen=True)
class Ingredients:
    """What a method may build its task from.

    `student` is the bare backbone. `weights` are the tensors it starts from, by this project's names; those of the
    backbone are already loaded.
    """

    config: TrainConfig
    student: nn.Module
    teacher: FrozenTeacher | None
    weights: dict[str, Tensor]
    device: torch.device


class TeachingTask(TrainingTask):
    """A task with a frozen teacher. The training loop sets `random` before each call, and `epoch`, counted from 1.

    Args:
        trainable: module that holds every trained parameter.
        ingredients: the student's normalisation is the one that images come in; with `unlabeled` the teacher's
            probabilities stand in for the labels, which are not read.
    """

    random: StepRandom
    epoch: int = 1
    # Teacher's features (B, D_t) of the training images of a part of a step, where they are cached.
    cached_feature: Callable[[StepRandom], Tensor] | None = None

    def __init__(self, trainable: nn.Module, ingredients: Ingredients):
        super().__init__(device=ingredients.device, verbose=False)
        self.trainable_module = trainable
        self.teacher = ingredients.teacher
        self.unlabeled = ingredients.config.unlabeled
        for name in ("mean", "std"):
            values = torch.tensor(ingredients.student.pretrained_cfg[name]).view(1, -1, 1, 1)
            self.register_buffer(f"student_{name}", values, persistent=False)

    @property
    def teacher_classifier(self) -> nn.Linear:
        return self.teacher.model.get_classifier()

    @torch.no_grad()
    def teacher_feature(self, images: Tensor) -> Tensor:
        """Teacher's pooled feature (B, D_t) float32 of images in the student's normalisation."""
        images = self.teacher.normalize_input(images, self.student_mean, self.student_std)
        return self.teacher(images, return_features=True).float()

    def training_feature(self, images: Tensor) -> Tensor:
        """`teacher_feature` of the training images that the loop has set `random` for; cached, it runs no teacher."""
        if self.cached_feature is None:
            return self.teacher_feature(images)
        return self.cached_feature(self.random).to(images.device).float()

    @torch.no_grad()
    def class_targets(self, feature: Tensor, labels: Tensor) -> Tensor:
        """The labels, or, without labels, the teacher's probabilities (B, C)."""
        return self.teacher_classifier(feature).float().softmax(-1) if self.unlabeled else labels

    def train(self, mode: bool = True) -> "TeachingTask":
        super().train(mode)
        self.teacher.eval()
        return self

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs) -> "TeachingTask":
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs) -> nn.Module:
        # In place: names of parameters stay as they are.
        self.trainable_module.compile(backend=backend, mode=mode, **compile_kwargs)
        self.teacher.compile(backend=backend, mode=mode, compile_model=False, compile_features=True, **compile_kwargs)
        return self.trainable_module
