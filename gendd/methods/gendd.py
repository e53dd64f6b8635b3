"""Generative Distribution Distillation (arXiv 2507.14503), with labels and without."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.core.ranges import Amount, Share, field_names
from gendd.core.seeding import StepRandom
from gendd.data.batch import Batch
from gendd.diffusion.draws import Draws
from gendd.diffusion.head import SplitTokenHead
from gendd.diffusion.objective import Objective
from gendd.distillation.branch import Branch, BranchTarget
from gendd.distillation.student import Student
from gendd.distillation.targets import FeatureScale, contract
from gendd.evaluation.accuracy import Outputs
from gendd.methods.base import DistillationTask, FeaturesAndMaps, Method, TaskContext
from gendd.methods.dense import DenseOptions, dense_target
from gendd.methods.options import FeatureOptions, PretrainOptions, ProbeOptions, SamplingOptions
from gendd.methods.pretrain import pretraining
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width, has_classifier, pooled_feature

if TYPE_CHECKING:
    from gendd.config import Config


class HeadTask(DistillationTask):
    """A task whose model is a `Student`; its outputs come from `Student.outputs`.

    Args:
        method: the method of the task.
        trainable: the student, or its trained part.
        contraction: share of the class center in the targets.
    """

    def __init__(
        self, method: Method, trainable: nn.Module, context: TaskContext, head: nn.Module, contraction: float = 0.0
    ):
        super().__init__(trainable, context, head)
        self.sampling, self.contraction = method.sampling(), contraction

    def outputs(self, model: Student) -> Outputs:
        outputs = lambda images, noise: model.outputs(images, noise, **self.sampling)  # noqa: E731
        if model.linear:
            return Outputs(("head", "linear"), outputs, self.teacher.features_to_compare)
        return Outputs(("head", "probe") if model.classifier else ("probe",), outputs)

    def outputs_apart(self, model: Student) -> list[tuple[Outputs, int]]:
        def head(images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
            generated = model.sample(images, noise, **self.sampling)
            return {"head": model.classifier(generated) if model.classifier else generated}

        def probe(images: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            return {"probe": model.backbone(images)}

        def linear(images: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            return {"linear": model.mapped(pooled_feature(model.backbone, images))}

        alone = parameter_count(model.backbone)
        others = [model.branches, *([model.dense] if model.dense else [])]
        whole = parameter_count(model) - sum(map(parameter_count, others))
        if model.linear:
            size, target = parameter_count(model.linear), self.teacher.features_to_compare
            with_head = Outputs(("head",), head, target), whole - size
            return [with_head, (Outputs(("linear",), linear, target), alone + size)]
        outputs = [(Outputs(("probe",), probe), alone)]
        if model.classifier:
            without_probe = whole - parameter_count(model.backbone.get_classifier())
            outputs.insert(0, (Outputs(("head",), head), without_probe))
        return outputs

    def further_outputs(self, model: Student) -> list[tuple[Outputs, int]]:
        return [
            self._further_output(model, f"head_{label}", number) for number, label in enumerate(self.more_labels, 1)
        ]

    def _further_output(self, model: Student, name: str, number: int) -> tuple[Outputs, int]:
        """Return the features that the head of a further teacher generates, and the number of parameters they need."""
        teacher, head = self.more_teachers[number - 1], model.branches[number - 1].head

        def outputs(images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
            return {name: model.sample(images, noise, teacher=number, **self.sampling)}

        size = sum(map(parameter_count, (model.backbone, model.norm, head)))
        if not model.linear:
            size -= parameter_count(model.backbone.get_classifier())
        return Outputs((name,), outputs, lambda images, _: teacher.features_of(images)), size

    def target(self, feature: Tensor, labels: Tensor) -> Tensor:
        """Return the contracted target f' (B, D_t) of teacher features f (B, D_t); labels are (B,) or soft (B, C)."""
        centers = self.teacher.class_centers if self.contraction else None
        return contract(feature, centers, labels, self.contraction)

    def measure_features(self, features: Tensor, maps: Tensor | None, further: Sequence[FeaturesAndMaps] = ()) -> None:
        """Set the scales of generated features and maps, as in the base class."""
        for averaged in (False, True) if self.average is not None else (False,):
            model = self.model(averaged)
            for branch, measured in zip(model.branches, further, strict=True):
                branch.measure(*measured)
            if model.scale:
                model.scale.measure(features)
            if maps is not None and model.dense.scale:
                model.dense.scale.measure(maps.flatten(0, 1))

    def feature_pairs(
        self, model: Student, images: Tensor, labels: Tensor, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Return generated features, targets and teacher features, each (B, D_t), for images and their labels."""
        generated = model.sample(images, noise, **self.sampling).float()
        feature = self.teacher.features_to_compare(images, labels)
        target = feature if self.unlabeled else self.target(feature, labels)
        return {"generated": generated, "target": target, "teacher": feature}


class GenDDTask(HeadTask):
    """Task of GenDD: teacher(images) -> f -> contracted f' -> loss of generating f' from the student's feature."""

    def __init__(self, method: "GenDD", student: Student, context: TaskContext):
        super().__init__(method, student, context, student.head, method.contraction)
        self.feature_mixup, self.probed = method.feature_mixup, student.linear is None
        scales = [student.scale, student.dense.scale if student.dense else None]
        self.measures_features = any(scale is not None for scale in scales) or len(student.branches) > 0
        self.dense, self.branches = student.dense, student.branches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        feature, feature_map = self.teacher.features_and_map(batch)
        device = batch.images.device
        labels = self.class_targets(feature, batch.labels) if self.probed else batch.labels
        return self.trainable_module(
            batch.images,
            self.target(feature, labels),
            labels,
            self.mixup_share(batch.random, device),
            self.draws(batch.random, device, self.head),
            dense_target(self.dense, feature_map, batch.random, device),
            [self.branch_target(number, batch) for number in range(len(self.more_teachers))],
        )

    def draws(self, random: StepRandom, device: torch.device, head: Any, purpose: str = "diffusion") -> Draws | None:
        """Draw a head's random numbers for a micro-batch; None if the head does not use any."""
        if not head.draws_features:
            return None
        return head.draw(random.batch, random.generator(purpose, device)).images(random.rows)

    def branch_target(self, number: int, batch: Batch) -> BranchTarget:
        """Return the target of the branch with this number."""
        branch, device = self.branches[number], batch.images.device
        feature, feature_map = self.more_teachers[number].features_and_map(batch)
        draws = self.draws(batch.random, device, branch.head, f"diffusion {number + 2}")
        dense = dense_target(branch.dense, feature_map, batch.random, device, f"dense {number + 2}")
        return BranchTarget(feature, draws, dense)

    def mixup_share(self, random: StepRandom, device: torch.device) -> Tensor | None:
        """Draw feature mixup's share m ~ Beta(beta, beta), one per global batch; None without mixup."""
        if self.feature_mixup == 0:
            return None
        numbers = np.random.default_rng(random.generator("mixup", "cpu").initial_seed())
        share = numbers.beta(self.feature_mixup, self.feature_mixup)
        return torch.full((), share, dtype=torch.float32, device=device)


def build_student(method: "GenDD", context: TaskContext) -> Student:
    """Build the student with new heads for the teachers' features.

    With several teachers all features are standardized, so that each teacher has the same weight in the loss.
    """
    classifier = context.needed_teacher.classifier
    if method.probe_gradient and not classifier and has_classifier(context.student):
        reason = "the probe learns from the teacher's classifier, and this teacher does not have one; leave it out"
        raise InvalidSetting("probe_gradient", method.probe_gradient, reason)
    head, scale = method.build_head(context), None
    if method.standardizes(classifier):
        scale = FeatureScale(head.feature_dim)
    elif context.more_teachers:
        scale = FeatureScale(head.feature_dim, isotropic=True)
    dense = method.build_dense(context)
    branches = [Branch(method.build_head(one), method.build_dense(one)) for one in context.of_more_teachers]
    return Student(context.student, head, classifier, scale, dense, branches, method.probe_gradient)


@dataclass(frozen=True)
class TargetOptions:
    """The target of the head."""

    contraction: Share = 0.9
    """Share of the class center in the target, lambda. 0 does not use labels, and is the default without them."""
    feature_mixup: Amount = 1.0
    """Parameter of feature mixup's Beta(beta, beta) (the paper: 1). 0 turns it off."""
    paper: bool = False
    """Use the paper's head, draws, probe and sampler. Overrides the other flags."""


@dataclass(frozen=True)
class GenDD(DenseOptions, ProbeOptions, SamplingOptions, FeatureOptions, TargetOptions, PretrainOptions, Method):
    """Generative distribution distillation: a diffusion head learns to generate the teacher's feature."""

    name, unlabeled, several_teachers = "gendd", True, True
    evaluation_only = frozenset({"paper", *field_names(SamplingOptions)})

    def build(self, context: TaskContext) -> GenDDTask:
        return GenDDTask(self, build_student(self, context), context)

    def build_head(self, context: TaskContext) -> nn.Module:
        """Build a head for the features of the context's teacher."""
        width = context.needed_teacher.width
        return SplitTokenHead(width, feature_width(context.student), **self.fitting(width))

    def check(self, config: "Config") -> None:
        super().check(config)
        self.check_sampling()
        self.check_contraction(config)
        if config.networks.more_teachers and self.feature_space == "raw":
            reason = "several teachers have the same weight only if their features are standardized; leave it out"
            raise InvalidSetting("feature_space", "raw", reason)

    def check_sampling(self) -> None:
        super().check_sampling()
        objective = Objective(self.prediction, self.timestep_density, self.loss_weighting, self.noise_path)
        objective.check_sampling(self.sampler, self.sampling_start)
        if self.guidance != 1 and not self.condition_dropout:
            remedy = "`guidance` 1"
            if self.paper:
                rest = (
                    f"`sampler` {self.sampler} `sampling_steps` {self.sampling_steps} `num_samples` {self.num_samples}"
                )
                remedy = f"give the rest of the paper's sampler in place of `paper`: {rest}"
            reason = "needs a head that is trained with condition dropout; set `condition_dropout` 0.2 in training, or "
            raise InvalidSetting("guidance", f"{self.guidance:g}", reason + remedy)

    def pretraining(self, config: "Config") -> "Config | None":
        return pretraining(config, self)

    def needs_classifier(self, config: "Config") -> bool:
        """Return True for class centers, or if the teacher's probabilities replace missing labels for the probe."""
        return self.contraction > 0 or config.data.label_fraction < 1

    def without_labels(self) -> "GenDD":
        return replace(self, contraction=0.0)

    def check_contraction(self, config: "Config") -> None:
        if config.data.unlabeled and self.contraction > 0:
            reason = f"`contraction` {self.contraction} needs labels: it moves the target to the center of the class"
            field, value = config.data.unlabeled_by
            raise InvalidSetting(field, value, f"{reason}; set `contraction` 0")
        if self.probe_gradient and not (self.contraction or self.pretrain_epochs or config.data.unlabeled):
            reason = "labels have no effect with `contraction` 0; set a `contraction`, or `unlabeled=True`"
            raise InvalidSetting("probe_gradient", self.probe_gradient, reason)

    def describe_head(self, head: nn.Module) -> list[str]:
        unfit = "" if self.token_dim == head.token_dim else f" ({self.token_dim} does not divide {head.feature_dim})"
        return [
            f"{head.num_tokens} token{'s' * (head.num_tokens > 1)} of width {head.token_dim}{unfit}",
            f"predicts the {self.prediction} on the {self.noise_path} path, {self.timestep_density} timesteps, "
            f"loss weighting {self.loss_weighting}",
            f"loss over {self.repeats} {self.draw_scheme} draws per token",
            f"sampled {self.sampler}, steps {self.sampling_steps}, samples {self.num_samples}, "
            f"guidance {self.guidance:g}",
        ]

    def describe(self) -> str:
        probe = f", probe gradient {self.probe_gradient:g}" if self.probe_gradient else ""
        return f"{self.name}, contraction {self.contraction:g}, feature mixup {self.feature_mixup:g}{probe}"

    @property
    def needs_pairs(self) -> bool:
        """Feature mixup mixes neighbors."""
        return self.feature_mixup > 0
