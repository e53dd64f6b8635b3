"""Generative Distribution Distillation (arXiv 2507.14503), with labels and without."""

import numpy as np
import torch
from torch import Tensor

from gendd.data import Batch
from gendd.evaluation import ReadOut
from gendd.head import Draws, SplitTokenHead
from gendd.methods.base import DistillationTask, TaskContext
from gendd.networks import feature_width, parameter_count
from gendd.randomness import StepRandom
from gendd.student import Student
from gendd.targets import contract


class HeadTask(DistillationTask):
    """A task whose model is a `Student`: it classifies by "head", the teacher's classifier on features that the head
    generates, and by "probe", the backbone alone."""

    def read_out(self, model: Student, sampling: dict) -> ReadOut:
        return ReadOut(("head", "probe"), lambda images, noise: model.read_out(images, noise, **sampling))

    def read_outs_apart(self, model: Student, sampling: dict) -> list[tuple[ReadOut, int]]:
        def head(images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
            return {"head": model.classifier(model.sample(images, noise, **sampling))}

        def probe(images: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            return {"probe": model.backbone(images)}

        without_probe = parameter_count(model) - parameter_count(model.backbone.get_classifier())
        alone = parameter_count(model.backbone)
        return [(ReadOut(("head",), head), without_probe), (ReadOut(("probe",), probe), alone)]


class GenDDTask(HeadTask):
    """teacher(images) -> f -> contracted f' -> student's loss of generating f' from its own feature."""

    def __init__(self, student: Student, context: TaskContext):
        super().__init__(student, context, student.head)
        self.contraction, self.feature_mixup = context.config.contraction, context.config.feature_mixup

    def target(self, feature: Tensor, labels: Tensor) -> Tensor:
        """f' (B, D_t) of the teacher's features f (B, D_t); labels (B,), or soft ones (B, C)."""
        return contract(feature, self.teacher.classifier.weight, labels, self.contraction)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        feature, device = self.teacher.features(batch), batch.images.device
        labels = self.class_targets(feature, batch.labels)
        return self.trainable_module(
            batch.images,
            self.target(feature, labels),
            labels,
            self.mixup_share(batch.random, device),
            self.draws(batch.random, device),
        )

    def draws(self, random: StepRandom, device: torch.device) -> Draws | None:
        """The head's random numbers for a micro-batch."""
        return self.head.draw(random.batch, random.generator("diffusion", device)).rows(random.rows)

    def mixup_share(self, random: StepRandom, device: torch.device) -> Tensor | None:
        """Feature mixup's share m ~ Beta(beta, beta), one per global batch; None without mixup."""
        if self.feature_mixup == 0:
            return None
        seed = random.generator("mixup", "cpu").initial_seed()
        return torch.tensor(
            np.random.default_rng(seed).beta(self.feature_mixup, self.feature_mixup), dtype=torch.float32, device=device
        )


def build_student(context: TaskContext) -> Student:
    """The student with a fresh head for the teacher's features."""
    classifier = context.teacher.classifier
    head = SplitTokenHead(classifier.in_features, feature_width(context.student), **context.config.head())
    return Student(context.student, head, classifier)


def build(context: TaskContext) -> GenDDTask:
    return GenDDTask(build_student(context), context)
