"""The configuration of a run: five parts, each a dataclass whose fields are flags, help, and names in config.json.

A method brings the options of its part (`gendd.methods`), a family of images the fields of its data
(`gendd_cifar.config`, `gendd_imagenet.config`).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from gendd.errors import UserError
from gendd.hub import TIMM
from gendd.methods import Method, get_method
from gendd.ranges import (
    Amount,
    Count,
    CountOrNone,
    Decay,
    PixelCount,
    Positive,
    PositiveShare,
    Range,
    Share,
    check_ranges,
    field_names,
    flag,
)
from gendd.teacher_features import Kind
from gendd.timm_sources import has_weights

CACHED_VIEWS = 10


@dataclass(frozen=True)
class Networks:
    """The networks and their weights."""

    student: str = ""
    """Network to train: a short name of this tree, timm/<model>, hf-hub:<owner>/<name>, local-dir:<folder>, or
    package.module:function."""
    student_weights: str | None = None
    """File or run folder that the student starts from; timm: what timm publishes of it."""
    after: str | None = None
    """Name of an earlier run that the student starts from, such as pretrain: of the same data, pair and seed."""
    after_best: bool = False
    """Start from that run's best epoch; otherwise from its last."""
    teacher: str | None = None
    """Teacher network, named like the student, or hub:<owner>/<repository>:<entry>, transformers:<id>, or
    open_clip:<model>/<tag>, which bring their weights."""
    teacher_weights: str | None = None
    """File or run folder of the teacher's weights; timm: those that timm publishes, the default of its names (timm/,
    hf-hub:, local-dir:); random: none, for a trial."""
    teacher_image_size: PixelCount | None = None
    """Side of the images that the teacher sees; that of the student's if not given."""
    teacher_feature: Kind = "auto"
    """Which feature of the teacher is learned: pooled as its own classifier sees it, the class token, the mean of the
    patches, or the projection that CLIP ends with; auto: the projection of CLIP's towers, pooled of others."""
    teacher_classifier: bool = True
    """Use the teacher's classifier, where it is of the data's classes."""
    teacher_mean: tuple[Share, Share, Share] | None = None
    """Mean of the teacher's images, red, green, blue in [0, 1] units; what the network states if not given."""
    teacher_std: tuple[PositiveShare, PositiveShare, PositiveShare] | None = None
    """Standard deviation of the teacher's images, like `teacher_mean`."""
    allow_partial: bool = False
    """Accept weight files that fill only a part of a network; a teacher's must hold its classifier."""
    teacher_chunk: CountOrNone = 0
    """Images that the teacher takes at once; 0: as many as come. Bounds its memory, changes no result."""
    grad_checkpointing: Literal["none", "student", "head", "both"] = "none"
    """What recomputes its activations in the backward pass: less memory, more time, the same result."""

    @property
    def teacher_flag(self) -> str:
        """The flag that names the teacher's weights, with its value."""
        if self.teacher_weights in (None, TIMM):
            return f"--teacher {self.teacher}"
        return f"--teacher-weights {self.teacher_weights}"

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        if not self.student:
            raise UserError("--student is missing: name the network to train")
        for name in ("teacher_mean", "teacher_std"):
            if getattr(self, name) and not self.teacher:
                raise UserError(f"{flag(name)}: there is no teacher; name one with --teacher, or leave it out")
        if self.after and self.student_weights:
            raise UserError(f"--after {self.after}: --student-weights {self.student_weights} is given too; keep one")
        if self.after_best and not self.after:
            raise UserError("--after-best: --after is missing; name the earlier run")


@dataclass(frozen=True)
class Data:
    """The images and their labels."""

    dataset: str = ""
    """Name of a data set, or a folder of images."""
    data_root: str = "data"
    """Folder that data sets are kept in and downloaded to."""
    holdout: Annotated[float, Range(0, 0.9)] = 0.0
    """Fraction of the training set that is split off for validation; evaluation then uses it, not the test set."""
    label_fraction: Annotated[float, Range(0, 1, above=True, remedy="without any label train with --unlabeled")] = 1.0
    """Share of the training images, class by class, that keep their labels, the same for every seed and method."""
    unlabeled: bool = False
    """Read no label. The contraction is then 0, and the teacher's probabilities train the probe (or stage 1)."""
    teacher_cache: str | None = None
    """Folder of the teacher's features: computed once for `cached_views` views per image, then read in every epoch."""
    cached_views: int | None = None
    """Views per image that the epochs show in turn, where the teacher's features are cached; 10 if not given."""

    # Fields that choose images of a data set, or put others in their place.
    choices: ClassVar[tuple[str, ...]] = ("holdout",)

    @property
    def lacks_labels(self) -> bool:
        """Whether training images may come without a label."""
        return self.unlabeled or self.label_fraction < 1

    @property
    def unlabeled_flag(self) -> str:
        """The flag by which no label is read."""
        return "--unlabeled"

    def whole(self, dataset: str) -> Self:
        """Return another data set: all its training images, and its own test images."""
        defaults: dict[str, Any] = {
            field.name: field.default for field in dataclasses.fields(self) if field.name in self.choices
        }
        return dataclasses.replace(self, **defaults | {"dataset": dataset})

    def resolve(self, config: "Config") -> "Config":
        """Return the configuration with the values that follow from its data."""
        return config

    def check(self, config: "Config") -> None:
        """Refuse images that cannot be trained on. Raises UserError."""
        if self.cached_views is not None and (self.cached_views < 1 or not self.teacher_cache):
            wrong = "must be at least 1" if self.teacher_cache else "--teacher-cache is missing: name its folder"
            raise UserError(f"--cached-views {self.cached_views}: {wrong}")
        self.check_training_images()

    def check_training_images(self) -> None:
        """Refuse a choice of training images and labels that contradicts itself. Raises UserError."""
        if self.unlabeled and self.label_fraction < 1:
            raise UserError(f"--label-fraction {self.label_fraction}: --unlabeled reads no label; leave one out")


@dataclass(frozen=True)
class Optimizer:
    """How long and how fast."""

    epochs: Count = 240
    """Passes over the training set."""
    batch_size: Count = 64
    """Images per optimizer step, over all processes."""
    grad_accum_steps: Count = 1
    """Micro-batches that each process takes its share of the batch in: as many times less memory."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """Optimizer; muon: of the weights of the backbone's hidden linear and convolution layers, with NAdamW for all else
    (the backbone's classifier, and what a method trains beside the backbone)."""
    lr: Positive = 1e-3
    """Learning rate for `batch_size` images, whatever the number of processes."""
    head_lr: Positive | None = None
    """Learning rate of the head; `lr` if not given."""
    weight_decay: Amount = 5e-2
    """Weight decay of the parameters that `decay` chooses."""
    decay: Literal["matrices", "head-exempt"] = "matrices"
    """What decays: weight matrices, but not norms, biases and the head; or everything but the head (the paper's)."""
    momentum: Decay = 0.9
    """Momentum of sgd and muon."""
    beta1: Decay = 0.9
    """First beta of adamw, and of muon's NAdamW."""
    beta2_start: Decay = 0.95
    """Second beta of the same at the first step."""
    beta2_end: Decay = 0.999
    """Second beta of the same at the last step; it rises from `beta2_start` along half a cosine."""
    schedule: Literal["cosine", "step"] = "step"
    """Learning rate: cosine to `min_lr`, or x0.1 at each milestone."""
    min_lr: Amount = 0.0
    """Learning rate at the end of the cosine, of the head too."""
    milestones: tuple[Count, ...] = (150, 180, 210)
    """Epochs of the step schedule."""
    warmup_epochs: Amount = 0
    """Epochs of linear warm-up from 0; a tenth of `epochs` if it is not shorter than they are."""
    ema_decay: Decay = 0.0
    """Decay of a moving average of the weights, evaluated beside them; 0 keeps none."""
    weights: Literal["trained", "ema"] = "trained"
    """Weights that the run reports, chooses its best epoch by and hands on: the trained ones, or their average."""
    sync_bn: bool = False
    """Train with the batch norm statistics of all processes' images; a process's own otherwise. GPUs alone can."""

    @property
    def warmup(self) -> float:
        """Epochs of warm-up: a recipe's own may be longer than the training that the user asks for."""
        return self.warmup_epochs if self.warmup_epochs < self.epochs else self.epochs / 10

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        for name in ("lr", "head_lr"):
            if getattr(self, name) is not None and self.min_lr > getattr(self, name):
                raise UserError(f"--min-lr {self.min_lr}: above {flag(name)} {getattr(self, name)}; lower it")
        if self.min_lr and self.schedule == "step":
            raise UserError(f"--min-lr {self.min_lr}: ends a cosine alone; give --schedule cosine, or leave it out")
        if self.weights == "ema" and not self.ema_decay:
            raise UserError(
                "--weights ema: there is no average without --ema-decay; give its decay, such as --ema-decay 0.999"
            )


@dataclass(frozen=True)
class Run:
    """Where results go, what is measured, and on what it runs."""

    name: str | None = None
    """Name of the run's folder beside other methods; the method's name if not given."""
    seed: CountOrNone = 0
    """Seed of all random numbers."""
    runs: str = "runs"
    """Folder of all runs."""
    resume: str | None = None
    """Run folder to go on with, by its own configuration. Other flags may only change where its data lies, how many
    processes read it, what is evaluated on the way, and memory. (The same command again goes on as well.)"""
    dry_run: bool = False
    """Build everything, print the plan and what is missing, and stop."""
    check_data: bool = False
    """Look through the data set, print what it holds and what is missing or broken, and stop."""
    eval_every: Count = 10
    """Epochs between evaluations on `eval_images`; all images are evaluated at the end."""
    eval_images: CountOrNone = 2000
    """Images of an intermediate evaluation; 0 takes all."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast, or fp32; auto: bf16 where the hardware multiplies in it."""
    compile: bool = False
    """torch.compile the networks."""


D = TypeVar("D", bound=Data)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[D]):
    """A training run: Config[Photographs] is one of photographs."""

    networks: Networks = field(default_factory=Networks)
    data: D = field(default_factory=Data)  # type: ignore[assignment]
    method: Method
    optimizer: Optimizer = field(default_factory=Optimizer)
    run: Run = field(default_factory=Run)

    def changed(self, **values: Any) -> Self:
        """Return the configuration with other values of fields, each in the part that has it.

        Raises:
            TypeError: no part has a field of this name.
        """
        parts = {}
        for part in field_names(Config):
            own = getattr(self, part)
            known = {name: values.pop(name) for name in field_names(type(own)) if name in values}
            parts[part] = dataclasses.replace(own, **known)
        if values:
            raise TypeError(f"no field of the configuration: {', '.join(values)}")
        return type(self)(**parts)

    def content(self) -> dict[str, Any]:
        """Return what config.json holds: a dictionary for each part, the method's with its name."""
        parts = {part: dataclasses.asdict(getattr(self, part)) for part in field_names(Config)}
        parts["method"] = {"name": self.method.name, **parts["method"]}
        return json.loads(json.dumps(parts))

    def filled(self, content: Mapping[str, Any]) -> Self:
        """Return the configuration with the values that `content`, as `content()` gives it, holds.

        Values of fields that do not exist any more are left out; new fields have this configuration's values. The
        method is the content's.

        Raises:
            Refusal: a method of an unknown name.
        """
        parts = {}
        for part in field_names(Config):
            own, values = getattr(self, part), dict(content.get(part, {}))
            if part == "method" and "name" in values:
                own = own if values["name"] == own.name else get_method(values["name"])()
            # JSON has no tuples.
            known = {name: _tuple(values[name]) for name in field_names(type(own)) if name in values}
            parts[part] = dataclasses.replace(own, **known)
        return type(self)(**parts)

    @property
    def views(self) -> int:
        """Views per image that are drawn once; 0: each time a new one."""
        if not self.data.teacher_cache:
            return 0
        return min(self.data.cached_views or CACHED_VIEWS, self.optimizer.epochs)

    def resolved(self) -> "Config":
        """Return the configuration with the values that follow from others."""
        config = self
        if self.networks.teacher and has_weights(self.networks.teacher) and not self.networks.teacher_weights:
            config = self.changed(teacher_weights=TIMM)
        return self.data.resolve(config)

    def check(self) -> None:
        """Refuse combinations that cannot work, before anything is loaded. Raises UserError."""
        for part in field_names(Config):
            check_ranges(getattr(self, part))
        self.method.check(self)
        self.optimizer.check()
        self.networks.check()
        if not self.data.dataset:
            raise UserError("--dataset is missing: name a data set or a folder of images")
        for name, value in (("name", self.run.name), ("after", self.networks.after)):
            if value is not None and (value in ("", ".", "..") or "/" in value):
                raise UserError(f"{flag(name)} {value}: names one folder below the pair's; give a word")
        self.data.check(self)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
