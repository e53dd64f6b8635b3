"""The configuration of a run: five dataclasses. Their fields are the flags, the help, and the names in config.json.

`gendd.network_settings` has the part of the networks. A method defines its own part (`gendd.methods`), and a family of
images adds fields to `Data` (`gendd_cifar.config`, `gendd_imagenet.config`).
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, cast

import numpy as np

from gendd.core.errors import InvalidSetting
from gendd.core.ranges import (
    Amount,
    Count,
    CountOrNone,
    Decay,
    PixelCount,
    Positive,
    Range,
    check_values,
    field_names,
    field_values,
)
from gendd.methods import Method, get_method
from gendd.network_settings import Networks, TeacherNetwork

CACHED_VIEWS = 10
# Number of the second teacher, in the name of its cache's folder.
FIRST_FURTHER = 2


@dataclass(frozen=True)
class Data:
    """The images and their labels."""

    dataset: str = ""
    """Data set: a name or a folder of images."""
    image_size: PixelCount = 32
    """Image size of the networks, in pixels."""
    data_root: str = "data"
    """Folder of data sets; downloads go there."""
    holdout: Annotated[float, Range(0, 0.9)] = 0.0
    """Fraction of the training images to hold out. Evaluation then uses them instead of the test images."""
    label_fraction: Annotated[
        float, Range(0, 1, above=True, remedy="without any label train with `unlabeled=True`")
    ] = 1.0
    """Fraction of the training images of each class that keep their labels. The choice is the same for all seeds and
    methods."""
    unlabeled: bool = False
    """Do not read labels. The contraction is then 0, and the teacher's probabilities train the probe (or stage 1)."""
    teacher_cache: str | None = None
    """Folder for the teacher's features. They are computed once for --cached-views views per image, then read."""
    cached_views: int | None = None
    """Augmented views per image with --teacher-cache; the epochs use them in turn. 10 if not given."""
    cached_maps: Literal["fp16", "int8"] = "fp16"
    """Numbers of the teacher's maps in --teacher-cache, for a dense term. int8 takes about half the space."""

    # Fields that select images of a data set, or replace them.
    choices: ClassVar[tuple[str, ...]] = ("holdout",)

    @property
    def lacks_labels(self) -> bool:
        """True if labels of training images may be missing."""
        return self.unlabeled or self.label_fraction < 1

    @property
    def geometry(self) -> dict[str, Any]:
        """Geometry of the evaluation's preprocessing, with timm's names: interpolation, crop_pct, crop_mode."""
        return {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}

    @property
    def commands(self) -> tuple[str, ...]:
        """The fields whose value runs a command. A file may not set them."""
        return ()

    @property
    def unlabeled_by(self) -> tuple[str, str | bool]:
        """The setting, with its value, that excludes labels."""
        return "unlabeled", True

    def whole(self, dataset: str) -> Self:
        """Return another data set, with all its training images and its test images."""
        defaults: dict[str, Any] = {
            field.name: field.default for field in dataclasses.fields(self) if field.name in self.choices
        }
        return dataclasses.replace(self, **defaults | {"dataset": dataset})

    def evaluated_on(self, named: Self) -> Self:
        """Return the data for an evaluation of a run on these data, where a command line names other ones."""
        return self.whole(named.dataset)

    def pretraining(self) -> Self:
        """Return the data for stage 1, which may have another augmentation."""
        return self

    def resolve(self, config: "Config") -> "Config":
        """Return the configuration with values that depend on the data."""
        return config

    def check(self, config: "Config") -> None:
        """Raise UserError for data that cannot be trained on."""
        if self.cached_views is not None and (self.cached_views < 1 or not self.teacher_cache):
            wrong = "must be at least 1" if self.teacher_cache else "`teacher_cache` is missing: name its folder"
            raise InvalidSetting("cached_views", self.cached_views, wrong)
        if self.cached_maps != "fp16" and not (self.teacher_cache and config.method.dense_grid):
            wrong = "does nothing without `teacher_cache` and `dense_grid`; leave it out"
            raise InvalidSetting("cached_maps", self.cached_maps, wrong)
        self.check_training_images()

    def check_training_images(self) -> None:
        """Raise UserError for contradictory settings of training images and labels."""
        if self.unlabeled and self.label_fraction < 1:
            raise InvalidSetting(
                "label_fraction", self.label_fraction, "`unlabeled=True` does not read labels; leave one of them out"
            )


@dataclass(frozen=True)
class Optimizer:
    """The optimizer and its schedule."""

    epochs: Count = 240
    """Passes over the training set."""
    batch_size: Count = 64
    """Images per optimizer step, over all processes."""
    grad_accum_steps: Count = 1
    """Gradient accumulation: micro-batches per optimizer step. Divides activation memory; changes the result only where
    statistics are of a micro-batch, as in batch norm."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """Optimizer. muon updates the weights of the backbone's hidden linear and convolution layers, and NAdamW all other
    parameters."""
    lr: Positive = 1e-3
    """Learning rate, for any number of processes."""
    head_lr: Positive | None = None
    """Learning rate of the head. --lr if not given."""
    weight_decay: Amount = 5e-2
    """Weight decay of the parameters that --decay selects."""
    decay: Literal["matrices", "head-exempt"] = "matrices"
    """Parameters with weight decay. matrices: weight matrices outside the head, no norms and biases. head-exempt:
    everything outside the head (the paper)."""
    momentum: Decay = 0.9
    """Momentum of sgd and muon."""
    beta1: Decay = 0.9
    """Adam's beta1, for adamw and muon."""
    beta2_start: Decay = 0.95
    """Adam's beta2 at the first step."""
    beta2_end: Decay = 0.999
    """Adam's beta2 at the last step. It rises from --beta2-start by half a cosine."""
    schedule: Literal["cosine", "step"] = "step"
    """Learning rate schedule: cosine down to --min-lr, or x0.1 at each of --milestones."""
    min_lr: Amount = 0.0
    """Learning rate at the end of the cosine schedule, also for the head."""
    milestones: tuple[Count, ...] = (150, 180, 210)
    """Epochs at which the step schedule lowers the rate."""
    warmup_epochs: Amount = 0
    """Epochs of linear warm-up from 0. A value of --epochs or more becomes a tenth of --epochs."""
    ema_decay: Decay = 0.0
    """Decay of a moving average of the weights, which is evaluated as well. 0 turns it off."""
    eval_weights: Literal["trained", "ema"] = "trained"
    """Weights to evaluate, select and export: trained, or their moving average."""
    sync_bn: bool = False
    """Synchronize batch norm statistics over all processes. Needs GPUs."""

    @property
    def warmup(self) -> float:
        """Epochs of warm-up: a tenth of the epochs if a recipe's warm-up does not fit into a shorter training."""
        return self.warmup_epochs if self.warmup_epochs < self.epochs else self.epochs / 10

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        for name in ("lr", "head_lr"):
            if getattr(self, name) is not None and self.min_lr > getattr(self, name):
                raise InvalidSetting("min_lr", self.min_lr, f"must not exceed `{name}` {getattr(self, name)}; lower it")
        if self.min_lr and self.schedule == "step":
            raise InvalidSetting(
                "min_lr", self.min_lr, "works only with `schedule` cosine; choose it, or leave `min_lr` out"
            )
        if self.eval_weights == "ema" and not self.ema_decay:
            raise InvalidSetting("eval_weights", "ema", "the average needs `ema_decay`; set it, such as to 0.999")


@dataclass(frozen=True)
class Run:
    """The run folder, evaluation and hardware."""

    name: str | None = None
    """Name of the run folder. The method's name if not given."""
    seed: CountOrNone = 0
    """Seed of all random numbers."""
    runs: str = "runs"
    """Folder of all runs."""
    out: str | None = None
    """Run folder. <runs>/<data>/<teacher>_<student>/<name>/<seed> if not given."""
    recipe: str | None = None
    """Recipe to train; `recipes` lists their names. Other flags change its values."""
    config: str | None = None
    """JSON file with a configuration, such as config.json of a run. Other flags change its values."""
    resume: str | None = None
    """Run folder to resume with its configuration. Other flags may change the folder of data sets, the number of
    workers, intermediate evaluations and memory. Repeating the training command resumes as well."""
    dry_run: bool = False
    """Build all networks, print the plan and what is missing, then stop."""
    check_data: bool = False
    """List the data set, read its images (of photographs, a sample), print the numbers and the missing or broken files,
    then stop."""
    trust_remote_code: bool = False
    """Download the code that a hub: or transformers: name refers to, and run it. Code in torch.hub's cache does not
    need this flag. A file cannot set it."""
    eval_every: Count = 10
    """Epochs between intermediate evaluations. The last epoch is evaluated on all images."""
    eval_images: CountOrNone = 2000
    """Images per intermediate evaluation; 0 is all."""
    checkpoint_minutes: Amount = 15
    """Minutes between checkpoints within an epoch; 0 for none. Each epoch ends with a checkpoint in any case."""
    checkpoint_steps: CountOrNone = 0
    """Steps between checkpoints within an epoch; 0 for none."""
    keep_checkpoints: Count = 1
    """Number of checkpoints to keep: last.pt, and earlier ones as step-<step>.pt."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 (autocast) or fp32. auto is bf16 where it is faster: GPUs, Intel with AMX, AMD with AVX-512 BF16."""
    compile: bool = False
    """Compile the training step with torch.compile; on one GPU also with CUDA graphs."""
    log: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = ("tensorboard",)
    """Loggers of the metrics, which metrics.jsonl contains in any case. Several may be named."""

    # Fields that affect only one command. They are not part of a saved configuration.
    of_command: ClassVar[tuple[str, ...]] = ("recipe", "config", "resume", "dry_run", "check_data", "trust_remote_code")


D = TypeVar("D", bound=Data)


@dataclass(frozen=True, kw_only=True)
class Config(Generic[D]):
    """The configuration of a run. Config[Photographs] has the data of photographs."""

    networks: Networks = field(default_factory=Networks)
    data: D = field(default_factory=cast(Any, Data))
    method: Method
    optimizer: Optimizer = field(default_factory=Optimizer)
    run: Run = field(default_factory=Run)

    def changed(self, **values: Any) -> Self:
        """Return the configuration with these values of fields, in the parts that have the fields.

        Paths become text, and NumPy's numbers become Python's.

        Raises:
            TypeError: no part has a field of this name.
        """
        parts = {}
        for part in field_names(Config):
            own = getattr(self, part)
            known = {name: values.pop(name) for name in field_names(type(own)) if name in values}
            parts[part] = dataclasses.replace(own, **{name: _plain(value) for name, value in known.items()})
        if values:
            raise TypeError(f"no field of the configuration: {', '.join(values)}")
        return type(self)(**parts)

    def content(self) -> dict[str, Any]:
        """Return the content of config.json: one dictionary per part; the method's part contains its name."""
        parts = {part: dataclasses.asdict(getattr(self, part)) for part in field_names(Config)}
        for name in Run.of_command:
            del parts["run"][name]
        parts["method"] = {"name": self.method.name, **parts["method"]}
        return json.loads(json.dumps(parts))

    def filled(self, content: Mapping[str, Any]) -> Self:
        """Return the configuration with the values in `content`, which has the format of `content()`.

        Fields that do not exist any more, or that affect only one command, are ignored. Fields that `content` does not
        contain keep their values. The method is the one in `content`.

        Raises:
            InvalidValue: the method is unknown.
        """
        parts = {}
        for part in field_names(Config):
            own, values = getattr(self, part), dict(content.get(part, {}))
            if part == "method" and "name" in values:
                own = own if values["name"] == own.name else get_method(values["name"])()
            names = [name for name in field_names(type(own)) if name in values and name not in Run.of_command]
            known = {name: _of_json(values[name]) for name in names}
            if "more_teachers" in known:
                known["more_teachers"] = tuple(map(_teacher_of_json, known["more_teachers"]))
            parts[part] = dataclasses.replace(own, **known)
        return type(self)(**parts)

    @property
    def views(self) -> int:
        """Number of fixed views per image with a teacher cache; 0 draws a new view each time."""
        if not self.data.teacher_cache:
            return 0
        return min(self.data.cached_views or CACHED_VIEWS, self.optimizer.epochs)

    def resolved(self) -> "Config":
        """Return the configuration with values that depend on other settings."""
        return self.data.resolve(dataclasses.replace(self, networks=self.networks.resolved()))

    @property
    def of_more_teachers(self) -> tuple[Self, ...]:
        """One configuration per further teacher, in which it is the only teacher and no labels are used.

        The cached features of each are in a folder inside the one of the first teacher.
        """
        cache, found = self.data.teacher_cache, []
        for number, teacher in enumerate(self.networks.more_teachers, FIRST_FURTHER):
            values = field_values(teacher, TeacherNetwork) | {"teacher_classifier": False, "more_teachers": ()}
            values |= {"teacher_cache": str(Path(cache, f"teacher{number}"))} if cache else {}
            own = self.changed(**values, label_fraction=1.0)
            found.append(dataclasses.replace(own, method=self.method.without_labels()))
        return tuple(found)

    def check_ranges(self) -> None:
        """Raise UserError for a value that its field cannot have."""
        for part in field_names(Config):
            check_values(getattr(self, part))
        for teacher in self.networks.more_teachers:
            check_values(teacher)

    def check(self) -> None:
        """Raise UserError for settings that cannot work together, before anything is loaded."""
        self.check_ranges()
        self.method.check(self)
        self.optimizer.check()
        self.networks.check()
        if not self.data.dataset:
            raise InvalidSetting("dataset", None, "name a data set or a folder of images")
        pretrain_name = getattr(self.method, "pretrain_name", None)
        for name, value in (("name", self.run.name), ("pretrain_name", pretrain_name)):
            if value is not None and (value in ("", ".", "..") or "/" in value):
                raise InvalidSetting(name, value, "must be the name of a single folder; give a word without /")
        self.data.check(self)


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: the text of a path, Python's number for NumPy's, others as they are."""
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def _of_json(value: Any) -> Any:
    """Return a field's value from JSON, which stores tuples as lists."""
    return tuple(map(_of_json, value)) if isinstance(value, list) else value


def _teacher_of_json(content: Mapping[str, Any]) -> TeacherNetwork:
    return TeacherNetwork(**{name: _of_json(value) for name, value in content.items()})
