"""Stage 3: only the classifier of the generated features is trained, on features that the head generates."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting, naming
from gendd.data.batch import Batch
from gendd.distillation.student import Student
from gendd.distillation.targets import FeatureScale
from gendd.methods.base import TaskContext
from gendd.methods.gendd import GenDD, HeadTask, build_student
from gendd.networks.checkpoint import load_weights

if TYPE_CHECKING:
    from gendd.config import Config


class FinetuneTask(HeadTask):
    """Task whose trainable module is the student's classifier; the rest of the student stays in eval mode."""

    def __init__(self, method: GenDD, student: Student, context: TaskContext):
        if student.classifier is None:
            raise ValueError(
                "the student does not have a classifier to finetune; choose a teacher that classifies the data"
            )
        classifier = student.classifier.requires_grad_(True)
        super().__init__(method, classifier, context, student.head, method.contraction)
        self.student = student

    def model(self, averaged: bool = False) -> nn.Module:
        return self.student

    def train(self, mode: bool = True) -> "FinetuneTask":
        super().train(mode)
        self.student.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            noise = batch.random.generator("sample", batch.images.device)
            generated = self.student.sample(batch.images, noise, **self.sampling)
            targets = self.training_targets(batch)
        logits = self.trainable_module(generated)
        return {"loss": F.cross_entropy(logits.float(), targets), "output": logits}


class Finetune(GenDD):
    """Stage 3 of gendd, with its options: train the classifier on features that the trained head generates."""

    name, feature, several_teachers = "finetune", "without labels", False
    evaluation_only = frozenset({"paper"})

    def build(self, context: TaskContext) -> FinetuneTask:
        if not context.weights:
            raise InvalidSetting("student_weights", None, "finetune starts from a gendd run; name its folder")
        student = build_student(self, context)
        if student.scale is None and "scale.mean" in context.weights:
            # The run had several teachers.
            student.scale = FeatureScale(student.head.feature_dim)
        with naming("student_weights"):
            # The classifier's training uses neither a dense head nor the heads of further teachers.
            unused = ("dense.", "branches.")
            parts = {name: value for name, value in context.weights.items() if not name.startswith(unused)}
            load_weights(student, parts, str(context.config.networks.student_weights))
        student.requires_grad_(False)
        return FinetuneTask(self, student, context)

    def check(self, config: "Config") -> None:
        super().check(config)
        if config.optimizer.ema_decay:
            raise InvalidSetting(
                "ema_decay", config.optimizer.ema_decay, "finetune does not support an average of weights; set it to 0"
            )
        for name in ("dense_grid", "probe_gradient"):
            if value := getattr(self, name):
                raise InvalidSetting(name, value, "finetune trains only the classifier; leave it out")
        if config.optimizer.optimizer == "muon":
            raise InvalidSetting(
                "optimizer",
                "muon",
                "finetune trains only the classifier, and muon updates only backbone weights; choose sgd",
            )

    def pretraining(self, config: "Config") -> None:
        """Return None: finetune starts from a trained run."""

    def check_contraction(self, config: "Config") -> None:
        """Accept any contraction: finetune does not use it."""

    def describe(self) -> str:
        return self.name

    def needs_classifier(self, config: "Config") -> bool:
        return True

    needs_pairs = False
