"""What all methods share: their options and needs; and what all their tasks do: a trained module under DDP, a frozen
teacher that is not, and ways to classify."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from timm.task import TrainingTask
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gendd.data.batch import Batch
from gendd.distill.teacher import FrozenTeacher
from gendd.evaluation.accuracy import ReadOut
from gendd.networks.cost import parameter_count

if TYPE_CHECKING:
    from gendd.config import Config


# What learns from a teacher that classifies nothing.
FEATURES_ALONE = "its feature alone is learned by gendd and regression with `contraction` 0, by feature, srd and vkd"


@dataclass(frozen=True)
class Method:
    """A way to train a network. Its fields are its options: their docstrings are the help, their types the ranges.

    Attributes:
        name: on the command line.
        needs_teacher: whether it learns from one.
        unlabeled: whether it can do without any label (--unlabeled); labeled: whether it ever reads one.
        feature: when its training reads the teacher's pooled feature, which --teacher-cache holds; without labels:
            where the teacher stands in for those that are not known.
        evaluation_only: options that change the evaluation and not the training.
    """

    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = True
    unlabeled: ClassVar[bool] = False
    labeled: ClassVar[bool] = True
    feature: ClassVar[Literal["always", "without labels", "never"]] = "always"
    evaluation_only: ClassVar[frozenset[str]] = frozenset()

    def build(self, context: TaskContext) -> Task:
        """The task of training `context.student`."""
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raises UserError for options, or a configuration of the run, that cannot work."""

    def pretraining(self, config: Config) -> Config | None:
        """Return the configuration of the run that must precede this one; None without."""
        return None

    def needs_classifier(self, config: Config) -> bool:
        """Whether the teacher must classify the data."""
        return self.needs_teacher

    def without_labels(self) -> Method:
        """The method with options for images that have none."""
        return self

    def describe(self) -> str:
        """Its name and what it learns by, for the plan."""
        own = {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}
        told = [name if value is True else f"{name} {value:g}" for name, value in own.items() if value is not False]
        return ", ".join([self.name, *told])

    @property
    def needs_pairs(self) -> bool:
        """Whether it needs an even number of images in a micro-batch."""
        return False

    def describe_head(self, head: nn.Module) -> list[str]:
        """Return what the head learns, and how it is sampled, for the plan; nothing without a head."""
        return []

    def sampling(self) -> dict:
        """How the trained head is sampled: keyword arguments of `SplitTokenHead.sample`; none without a head."""
        return {}

    def reads_feature(self, lacks_labels: bool) -> bool:
        return self.feature == "always" or (lacks_labels and self.feature == "without labels")


@dataclass(frozen=True)
class TaskContext:
    """What a method may build its task from.

    `student` is the bare backbone. `weights` are the tensors it starts from, by this project's names; those of the
    backbone are already loaded.
    """

    config: Config
    student: nn.Module
    teacher: FrozenTeacher | None
    weights: dict[str, Tensor]
    device: torch.device

    @property
    def needed_teacher(self) -> FrozenTeacher:
        """The teacher, for a method that needs one.

        Raises:
            ValueError: there is none.
        """
        if self.teacher is None:
            raise ValueError(f"{self.config.method.name} needs a teacher; name one in the configuration")
        return self.teacher


class Task(TrainingTask):
    """Called with a `Batch`, it returns the losses: "loss", its named terms, and the logits as "output".

    Args:
        trainable: module that holds every trained parameter; DistributedDataParallel wraps it.
        head: the module of it that has a learning rate of its own, and that is evaluated; None without.
    """

    head: Any

    def __init__(self, trainable: nn.Module, context: TaskContext, head: nn.Module | None = None):
        super().__init__(device=context.device, verbose=False)
        self.trainable_module, self.head = trainable, head
        # Whether `measure_features` is to be called.
        self.measures_features = False

    def read_out(self, model: nn.Module) -> ReadOut:
        """How a trained model of this task, or its average, classifies; of several ways the first is the one to
        report."""
        return ReadOut(("classifier",), lambda images, noise: {"classifier": model(images)})

    def read_outs_apart(self, model: nn.Module) -> list[tuple[ReadOut, int]]:
        """The same read-outs, each by itself, computing nothing for the others, with the parameters that it needs."""
        return [(self.read_out(model), parameter_count(model))]

    def measure_features(self, features: Tensor) -> None:
        """Look at some of the teacher's features (N, D_t) before training begins."""

    def prepare_distributed(self, device_ids: list | None = None, **ddp_kwargs) -> Task:
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids, **ddp_kwargs)
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs) -> nn.Module:
        # In place: names of parameters stay as they are.
        self.trainable_module.compile(backend=backend, mode=mode, **compile_kwargs)
        return self.trainable_module


class DistillationTask(Task):
    """A task with a frozen teacher. Where labels are not known, the teacher's probabilities stand in for them."""

    def __init__(self, trainable: nn.Module, context: TaskContext, head: nn.Module | None = None):
        super().__init__(trainable, context, head)
        self.teacher = context.needed_teacher
        self.unlabeled, self.lacks_labels = context.config.data.unlabeled, context.config.data.lacks_labels

    @torch.no_grad()
    def class_targets(self, feature: Tensor, labels: Tensor) -> Tensor:
        """The labels (B,), or, if a run lacks some, soft labels (B, C): the teacher's probabilities for its features
        (B, D_t) in the rows without a label, which is -1. With `unlabeled` in all rows, and no label is read."""
        if not self.lacks_labels:
            return labels
        probabilities = self.teacher.classify(feature).float().softmax(-1)
        if self.unlabeled:
            return probabilities
        known = F.one_hot(labels.clamp(min=0), probabilities.shape[-1]).to(probabilities)
        return torch.where((labels >= 0)[:, None], known, probabilities)

    def training_targets(self, batch: Batch) -> Tensor:
        """`class_targets` of a batch. Where all labels are known, no teacher runs."""
        return self.class_targets(self.teacher.features(batch), batch.labels) if self.lacks_labels else batch.labels

    def train(self, mode: bool = True) -> DistillationTask:
        super().train(mode)
        self.teacher.eval()
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **compile_kwargs) -> nn.Module:
        self.teacher.compile(backend=backend, mode=mode, compile_model=False, compile_features=True, **compile_kwargs)
        return super().compile(backend, mode, **compile_kwargs)
