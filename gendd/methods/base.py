"""Base classes of all methods and tasks.

A method holds options and requirements. A task holds a trained module, which DDP wraps, a frozen teacher, which it
does not wrap, and the outputs to evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gendd.data.batch import Batch
from gendd.evaluation.accuracy import Outputs
from gendd.networks.cost import parameter_count

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gendd.config import Config
    from gendd.distillation.teacher import FrozenTeacher

# Features (N, D_t) and maps (N, L, D_m) of a teacher; None without maps.
FeaturesAndMaps = tuple[Tensor, Tensor | None]

# Suggested if the teacher does not classify the data.
FEATURES_ALONE = "these learn from features only: gendd and regression with `contraction` 0"
FEATURES_AND_LABELS = f"{FEATURES_ALONE}, feature, srd and vkd"


@dataclass(frozen=True)
class Method:
    """A way to train a network. Its fields are its options: their docstrings are the help, their types the ranges.

    Attributes:
        name: name on the command line.
        needs_teacher: the method learns from a teacher.
        unlabeled: the method can train without any label (--unlabeled).
        labeled: the method can use labels.
        feature: when training reads the teacher's pooled feature (the content of --teacher-cache). "without labels":
            only if the teacher's probabilities replace missing labels.
        several_teachers: the method can learn from several teachers.
        evaluation_only: options that change the evaluation and not the training.
        fewest_images: smallest micro-batch.
        dense_grid, dense_layer: the teacher's map that a dense term learns (`gendd.methods.dense`); 0 for none.
    """

    name: ClassVar[str]
    needs_teacher: ClassVar[bool] = True
    unlabeled: ClassVar[bool] = False
    labeled: ClassVar[bool] = True
    feature: ClassVar[Literal["always", "without labels", "never"]] = "always"
    several_teachers: ClassVar[bool] = False
    evaluation_only: ClassVar[frozenset[str]] = frozenset()
    fewest_images: ClassVar[int] = 1
    dense_grid = 0
    dense_layer = None

    def build(self, context: TaskContext) -> Task:
        """Build the task that trains `context.student`."""
        raise NotImplementedError

    def check(self, config: Config) -> None:
        """Raise UserError for options, or a configuration of the run, that cannot work."""

    def pretraining(self, config: Config) -> Config | None:
        """Return the configuration of the run that must precede this one, or None."""
        return None

    def needs_classifier(self, config: Config) -> bool:
        """Return True if the teacher must classify the data."""
        return self.needs_teacher

    def without_labels(self) -> Method:
        """Return the method with options for images without labels."""
        return self

    def describe(self) -> str:
        """Return the name and the options, for the plan."""
        own = {field.name.replace("_", " "): getattr(self, field.name) for field in fields(self)}
        # The plan describes the dense term in another line.
        shown = [_shown(name, value) for name, value in own.items() if not name.startswith("dense ")]
        return ", ".join(filter(None, [self.name, *shown]))

    @property
    def needs_pairs(self) -> bool:
        """True if the method needs an even number of images per micro-batch."""
        return False

    def describe_head(self, head: nn.Module) -> list[str]:
        """Return descriptions of the head's loss and sampling, for the plan; empty without a head."""
        return []

    def sampling(self) -> dict:
        """Return the keyword arguments of `SplitTokenHead.sample` for evaluation; empty without a head."""
        return {}

    def reads_feature(self, lacks_labels: bool) -> bool:
        return self.feature == "always" or (lacks_labels and self.feature == "without labels")


def _shown(name: str, value: Any) -> str:
    """Return an option with its value, only the name for True, and an empty text for False."""
    if isinstance(value, bool):
        return name if value else ""
    return f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"


@dataclass(frozen=True)
class TaskContext:
    """Input of `Method.build`.

    `student` is the bare backbone with its initial weights loaded. `weights` are all initial tensors, under the names
    of this project. `more_teachers` are the teachers after the first one.
    """

    config: Config
    student: nn.Module
    teacher: FrozenTeacher | None
    weights: dict[str, Tensor]
    device: torch.device
    more_teachers: tuple[FrozenTeacher, ...] = ()

    @property
    def of_more_teachers(self) -> list[TaskContext]:
        """One context per further teacher, in which it is the only teacher."""
        return [replace(self, teacher=teacher, more_teachers=()) for teacher in self.more_teachers]

    @property
    def needed_teacher(self) -> FrozenTeacher:
        """The teacher, for a method that needs one.

        Raises:
            ValueError: the context does not have a teacher.
        """
        if self.teacher is None:
            raise ValueError(f"{self.config.method.name} needs a teacher; name one in the configuration")
        return self.teacher


class Task(nn.Module):
    """A task of training. A call with a `Batch` returns "loss", its named terms, and the logits as "output".

    Args:
        trainable: module that holds every trained parameter; DistributedDataParallel wraps it.
        head: the part of `trainable` with a separate learning rate, which is also evaluated; None without a head.

    Attributes:
        dense: head of the dense term, a part of `trainable`; None without one.
        branches: the parts of `trainable` for further teachers; None without any.
        more_teachers, more_labels: teachers after the first one, and short names of those to evaluate.
        average: timm's moving average of the trained weights, or None.
        measures_features: if True, `measure_features` is called before training.
    """

    head: Any
    dense: Any
    branches: Any
    average: Any
    more_teachers: Any
    more_labels: tuple[str, ...] = ()
    measures_features: bool = False

    def __init__(self, trainable: nn.Module, head: nn.Module | None = None):
        super().__init__()
        self.trainable_module, self.head, self.dense, self.branches, self.average = trainable, head, None, None, None
        # Pairs of an averaged and a trained tensor: weights, and counts, which are copied.
        self.averaging: list[list[tuple[Tensor, Tensor]]] | None = None

    def model(self, averaged: bool = False) -> nn.Module:
        """Return the network to evaluate, without wrappers: with the trained weights or with their average."""
        if averaged:
            return self.average.module
        module = self.trainable_module
        return module.module if isinstance(module, DistributedDataParallel) else module

    def start_average(self, decay: float) -> None:
        """Start a moving average of the trained weights. Its decay rises to `decay` over the first steps."""
        from timm.utils import ModelEmaV3

        self.average = ModelEmaV3(self.model(), decay=decay, use_warmup=True)

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        if self.average is None:
            return
        if self.averaging is None:
            # Listed once: `state_dict`, which timm's `update` calls in each step, makes a view of each tensor.
            pairs = list(zip(*(self.model(averaged).state_dict().values() for averaged in (True, False)), strict=True))
            self.averaging = [[pair for pair in pairs if pair[0].is_floating_point() == kind] for kind in (True, False)]
        floating, counts = self.averaging
        torch._foreach_lerp_(*zip(*floating, strict=True), 1 - self.average.get_decay(step))
        if counts:
            torch._foreach_copy_(*zip(*counts, strict=True))

    def no_sync(self) -> AbstractContextManager:
        """Return a context in which the processes do not exchange gradients."""
        module = self.trainable_module
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def outputs(self, model: nn.Module) -> Outputs:
        """Return the outputs of a trained model of this task, or of its average. The first output is reported."""
        return Outputs(("classifier",), lambda images, noise: {"classifier": model(images)})

    def outputs_apart(self, model: nn.Module) -> list[tuple[Outputs, int]]:
        """Return each output by itself, without computations for the others, with the number of its parameters."""
        return [(self.outputs(model), self.parameters_used(model))]

    def parameters_used(self, model: nn.Module) -> int:
        """Return the number of parameters that `outputs` needs."""
        return parameter_count(model)

    def further_outputs(self, model: nn.Module) -> list[tuple[Outputs, int]]:
        """Return the outputs to compare with further teachers, each by itself, with the number of its parameters."""
        return []

    def measure_features(self, features: Tensor, maps: Tensor | None, further: Sequence[FeaturesAndMaps] = ()) -> None:
        """Measure statistics of some features (N, D_t) and maps (N, L, D_m) of the teachers before training.

        Args:
            further: features and maps of each further teacher.
        """

    def prepare_distributed(self, device_ids: list | None = None) -> None:
        self.trainable_module = DistributedDataParallel(self.trainable_module, device_ids=device_ids)

    def compile(self, **options) -> None:
        # In place, so that the names of parameters do not change.
        self.trainable_module.compile(**options)


class DistillationTask(Task):
    """A task with a frozen teacher. The teacher's probabilities replace missing labels."""

    def __init__(self, trainable: nn.Module, context: TaskContext, head: nn.Module | None = None):
        super().__init__(trainable, head)
        self.teacher = context.needed_teacher
        self.more_teachers = nn.ModuleList(context.more_teachers)
        self.more_labels = context.config.networks.more_labels
        self.unlabeled, self.lacks_labels = context.config.data.unlabeled, context.config.data.lacks_labels

    @torch.no_grad()
    def class_targets(self, feature: Tensor, labels: Tensor) -> Tensor:
        """Return the labels (B,), or soft labels (B, C) if the run has images without a label.

        The teacher's probabilities for its features (B, D_t) replace missing labels (-1); with `unlabeled`, all labels.
        """
        if not self.lacks_labels:
            return labels
        probabilities = self.teacher.classify(feature).float().softmax(-1)
        if self.unlabeled:
            return probabilities
        known = F.one_hot(labels.clamp(min=0), probabilities.shape[-1]).to(probabilities)
        return torch.where((labels >= 0)[:, None], known, probabilities)

    def training_targets(self, batch: Batch) -> Tensor:
        """Return `class_targets` of a batch. The teacher does not run if all labels are known."""
        return self.class_targets(self.teacher.features(batch), batch.labels) if self.lacks_labels else batch.labels

    def train(self, mode: bool = True) -> DistillationTask:
        super().train(mode)
        for teacher in (self.teacher, *self.more_teachers):
            teacher.eval()
        return self

    def compile(self, **options) -> None:
        for teacher in (self.teacher, *self.more_teachers):
            teacher.compile(compile_model=False, compile_features=True, **options)
        super().compile(**options)
