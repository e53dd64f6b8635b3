"""The configuration of a training run and of an evaluation.

One dataclass is the flags, the help, the saved file and the names in the scripts. Each tree subclasses it to add
what only its data has and to set its own defaults.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import tyro

from gendd.diffusion import NUM_TIMESTEPS
from gendd.errors import UserError
from gendd.head import check_sampling
from gendd.objective import Objective

CACHED_VIEWS = 10
# How a head that predicts the noise is read in a few steps: those that start later tell no feature, guidance helps.
NOISE_READ_OUT = {"steps": 2, "guidance": 2.0, "start": 800}
# Settings of the head in runs from before there were flags for them: the paper's.
EARLIER = {
    "trunk_depth": 0,
    "prediction": "noise",
    "timestep_density": "uniform",
    "loss_weight": "own",
    "noise_path": "cosine",
}
# Least and greatest value of the numbers on the command lines of all programs. Where other conditions hold, they are
# checked apart.
RANGES = {
    **dict.fromkeys(("contraction", "condition_dropout", "label_share", "hflip", "label_smoothing"), (0, 1)),
    **dict.fromkeys(("teacher_mean", "teacher_std"), (0, 1)),
    "holdout": (0, 0.9),
    **dict.fromkeys(("ema_decay", "momentum", "beta1", "beta2_start", "beta2_end"), (0, 0.99999)),
    "trunk_depth": (0, math.inf),
    **dict.fromkeys(
        ("token_dim", "width", "depth", "repeats", "epochs", "batch_size", "grad_accum_steps"), (1, math.inf)
    ),
    **dict.fromkeys(("eval_every", "images_per_shard", "rounds", "milestones"), (1, math.inf)),
    **dict.fromkeys(("steps", "num_samples"), (1, math.inf)),
    "min_lr": (0, math.inf),
    "image_size": (1, 10_000),
    "crop_padding": (0, 10_000),
    "start": (2, NUM_TIMESTEPS - 1),
    **dict.fromkeys(
        ("feature_mixup", "weight_decay", "warmup_epochs", "eval_images", "seed", "teacher_chunk"), (0, math.inf)
    ),
    **dict.fromkeys(("alpha", "beta", "distill_warmup_epochs", "images", "noisy_images", "workers"), (0, math.inf)),
    **dict.fromkeys(("color_jitter", "mixup", "cutmix", "steps_per_epoch"), (0, math.inf)),
    "guidance": (-math.inf, math.inf),
}
POSITIVE = ("lr", "head_lr", "temperature", "teacher_std")


def field_names(config_class: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(config_class))


@dataclass(frozen=True)
class SamplingConfig:
    """How the head is sampled in evaluation."""

    sampler: Literal["ancestral", "deterministic"] = "deterministic"
    """ancestral (the paper's), or deterministic: the DDIM path from zero, of one or a few steps."""
    steps: int = 1
    """Sampling steps (the paper: 100 for CIFAR, 64 for ImageNet)."""
    num_samples: int = 1
    """Features drawn and averaged per image (the paper: 5). The deterministic sampler has one outcome."""
    guidance: float = 1.0
    """Scale of classifier-free guidance (the paper: 2); 1 is none, takes half the time, and needs no dropped conditions
    in training."""
    start: int = 999
    """Timestep at which the deterministic sampler starts; with noise prediction at most 990, such as 800."""

    def sampling(self) -> dict:
        """Keyword arguments of `SplitTokenHead.sample`."""
        return {name: getattr(self, name) for name in field_names(SamplingConfig)}

    def check(self) -> None:
        check_ranges(self)
        check_sampling(self.sampler, self.steps, self.num_samples, self.start)


@dataclass(frozen=True)
class HeadConfig:
    """The generative head and its loss."""

    token_dim: int = 64
    """Width d of a token; must divide the teacher's feature width."""
    width: int = 1024
    """Width of the denoiser."""
    depth: int = 1
    """Residual blocks of the denoiser (the paper: 3)."""
    trunk_depth: int = 3
    """Residual blocks of the condition's own network, which is computed once per image, and whose output is added to
    the denoiser's input; 0: no such network, the condition enters through AdaLN (the paper's)."""
    prediction: Literal["noise", "velocity", "feature"] = "feature"
    """What the denoiser predicts: the noise, with its variance (the paper's), the velocity, or the clean feature."""
    timestep_density: Literal["uniform", "high-noise", "logit-normal"] = "high-noise"
    """Density of the timesteps in training: uniform (the paper's), mostly high noise, or logit-normal."""
    loss_weight: Literal["own", "clean", "min-snr"] = "own"
    """Weight of the noise levels in the loss: that of the squared error of what is predicted (the paper's), of the
    clean feature's error, or of that times the signal-to-noise ratio, up to 5 (min-SNR)."""
    noise_path: Literal["cosine", "straight"] = "cosine"
    """Way from feature to noise: the cosine schedule (the paper's), or a straight line (flow matching)."""
    repeats: int = 16
    """K, draws of timestep and noise per token and step (the paper: 30 for CIFAR, 10 for ImageNet)."""
    timesteps: Literal["independent", "shared", "paired"] = "shared"
    """How the timesteps are drawn: independently (the paper's); K evenly spread ones, which all images of a batch
    share; or in pairs of opposite noise (K even)."""
    condition_dropout: float = 0.0
    """Probability of a zero condition, per image, token and draw (the paper: 0.2); guidance needs it."""

    def head(self) -> dict:
        """Keyword arguments of `SplitTokenHead`."""
        return {name: getattr(self, name) for name in field_names(HeadConfig)}


@dataclass(frozen=True)
class NetworkConfig:
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
    """Teacher network, named like the student."""
    teacher_weights: str | None = None
    """File or run folder of the teacher's weights; timm: those that timm publishes; random: none, for a trial."""
    teacher_mean: tuple[float, float, float] | None = None
    """Mean of the teacher's images, red, green, blue in [0, 1] units; what the network states if not given."""
    teacher_std: tuple[float, float, float] | None = None
    """Standard deviation of the teacher's images, like `teacher_mean`."""
    allow_partial: bool = False
    """Accept weight files that fill only a part of a network; a teacher's must hold its classifier."""
    teacher_chunk: int = 0
    """Images that the teacher takes at once; 0: as many as come. Bounds its memory, changes no result."""
    grad_checkpointing: Literal["none", "student", "head", "both"] = "none"
    """What recomputes its activations in the backward pass: less memory, more time, the same result."""


@dataclass(frozen=True)
class DataConfig:
    """The images and their labels."""

    dataset: str = ""
    """Name of a data set, or a folder of images."""
    data_root: str = "data"
    """Folder that data sets are kept in and downloaded to."""
    holdout: float = 0.0
    """Fraction of the training set that is split off for validation; evaluation then uses it, not the test set."""
    label_fraction: float = 1.0
    """Share of the training images, class by class, that keep their labels, the same for every seed and method."""
    unlabeled: bool = False
    """Touch no label: needs contraction 0; the teacher's probabilities train the probe (or stage 1)."""
    teacher_cache: str | None = None
    """Folder of the teacher's features: computed once for `cached_views` views per image, then read in every epoch."""
    cached_views: int | None = None
    """Views per image that the epochs show in turn, where the teacher's features are cached; 10 if not given."""


@dataclass(frozen=True)
class MethodConfig:
    """The method, and what it learns from."""

    method: str = "gendd"
    """classification, kd, dkd, ikl, dist, kl (no labels), feature, srd, vkd, simkd, regression, pretrain (stage 1),
    gendd, or finetune (stage 3)."""
    contraction: float = 0.9
    """lambda, share of the class center in the target; 0 uses no label for it."""
    feature_mixup: float = 1.0
    """beta of feature mixup's Beta(beta, beta); 0 turns it off."""
    temperature: float = 4.0
    """Softmax temperature of kd, dkd, ikl, dist and kl."""
    label_share: float = 0.1
    """Share of the cross-entropy with labels in kd's loss."""
    logit_standardization: bool = False
    """Standardize each image's logits, the teacher's and the student's, before the temperature, in kd and dkd (Sun et
    al., 2024)."""
    alpha: float = 1.0
    """Weight of dkd's loss of the target class, of ikl's soft cross-entropy and of dist's inter-class loss."""
    beta: float = 8.0
    """Weight of dkd's loss of the other classes, of ikl's weighted squared error, of dist's intra-class loss, and of
    what feature, srd and vkd learn from the teacher's features."""
    distill_warmup_epochs: float = 20
    """Epochs until the weights of dkd and ikl are whole."""
    paper: bool = False
    """The paper's protocol of draws and sampling, over all flags of them: independent timesteps, its K, its sampler."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How long and how fast."""

    epochs: int = 240
    """Passes over the training set."""
    batch_size: int = 64
    """Images per optimizer step, over all processes."""
    grad_accum_steps: int = 1
    """Micro-batches that each process takes its share of the batch in: as many times less memory."""
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """Optimizer; muon: of the weights of the backbone's hidden linear and convolution layers, with NAdamW for all else
    (the backbone's classifier, and what a method trains beside the backbone)."""
    lr: float = 1e-3
    """Learning rate for `batch_size` images, whatever the number of processes."""
    head_lr: float | None = None
    """Learning rate of the head; `lr` if not given."""
    weight_decay: float = 5e-2
    """Weight decay of the parameters that `decay` chooses."""
    decay: Literal["matrices", "head-exempt"] = "matrices"
    """What decays: weight matrices, but not norms, biases and the head; or everything but the head (the paper's)."""
    momentum: float = 0.9
    """Momentum of sgd and muon."""
    beta1: float = 0.9
    """First beta of adamw, and of muon's NAdamW."""
    beta2_start: float = 0.95
    """Second beta of the same at the first step."""
    beta2_end: float = 0.999
    """Second beta of the same at the last step; it rises from `beta2_start` along half a cosine."""
    schedule: Literal["cosine", "step"] = "step"
    """Learning rate: cosine to `min_lr`, or x0.1 at each milestone."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine, of the head too."""
    milestones: tuple[int, ...] = (150, 180, 210)
    """Epochs of the step schedule."""
    warmup_epochs: float = 0
    """Epochs of linear warm-up from 0."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, evaluated beside them; 0 keeps none."""
    weights: Literal["trained", "ema"] = "trained"
    """Weights that the run reports, chooses its best epoch by and hands on: the trained ones, or their average."""
    sync_bn: bool = False
    """Train with the batch norm statistics of all processes' images; a process's own otherwise. GPUs alone can."""


@dataclass(frozen=True)
class RunConfig:
    """Where results go, what is measured, and on what it runs."""

    name: str | None = None
    """Name of the run's folder beside other methods; the method's name if not given."""
    seed: int = 0
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
    eval_every: int = 10
    """Epochs between evaluations on `eval_images`; all images are evaluated at the end."""
    eval_images: int = 2000
    """Images of an intermediate evaluation; 0 takes all."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bf16 autocast, or fp32; auto: bf16 where the hardware multiplies in it."""
    compile: bool = False
    """torch.compile the networks."""


@dataclass(frozen=True)
class TrainConfig(RunConfig, OptimizerConfig, SamplingConfig, HeadConfig, MethodConfig, DataConfig, NetworkConfig):
    """Train a network: a teacher, a student alone, or a student from a teacher."""

    @property
    def views(self) -> int:
        """Views per image that are drawn once; 0: each time a new one."""
        return min(self.cached_views or CACHED_VIEWS, self.epochs) if self.teacher_cache else 0

    @property
    def lacks_labels(self) -> bool:
        """Whether training images may come without a label."""
        return self.unlabeled or self.label_fraction < 1

    def check(self) -> None:
        """Refuse combinations that cannot work, before anything is loaded."""
        super().check()
        for name in ("lr", "head_lr"):
            if getattr(self, name) is not None and self.min_lr > getattr(self, name):
                raise UserError(f"--min-lr {self.min_lr}: above {_flag(name)} {getattr(self, name)}; lower it")
        if self.min_lr and self.schedule == "step":
            raise UserError(f"--min-lr {self.min_lr}: ends a cosine alone; give --schedule cosine, or leave it out")
        if self.method in ("gendd", "finetune"):
            self._check_objective()
        if not self.student:
            raise UserError("--student is missing: name the network to train")
        if not self.dataset:
            raise UserError("--dataset is missing: name a data set or a folder of images")
        for name in ("teacher_mean", "teacher_std"):
            if getattr(self, name) and not self.teacher:
                raise UserError(f"{_flag(name)}: there is no teacher; name one with --teacher, or leave it out")
        if self.after and self.student_weights:
            raise UserError(f"--after {self.after}: --student-weights {self.student_weights} is given too; keep one")
        for name in ("name", "after"):
            value = getattr(self, name)
            if value is not None and (value in ("", ".", "..") or "/" in value):
                raise UserError(f"{_flag(name)} {value}: names one folder below the pair's; give a word")
        if self.after_best and not self.after:
            raise UserError("--after-best: --after is missing; name the earlier run")
        if self.cached_views is not None and (self.cached_views < 1 or not self.teacher_cache):
            wrong = "must be at least 1" if self.teacher_cache else "--teacher-cache is missing: name its folder"
            raise UserError(f"--cached-views {self.cached_views}: {wrong}")
        if self.weights == "ema" and not self.ema_decay:
            raise UserError(
                "--weights ema: there is no average without --ema-decay; give its decay, such as --ema-decay 0.999"
            )
        if self.warmup_epochs >= self.epochs:
            raise UserError(f"--warmup-epochs {self.warmup_epochs}: must be below --epochs {self.epochs}")
        self.check_training_images()
        if self.unlabeled and self.method in ("gendd", "regression") and self.contraction > 0:
            raise UserError(
                f"--contraction {self.contraction}: pulls toward the label's class; with --unlabeled set it to 0"
            )

    def _check_objective(self) -> None:
        objective = Objective(self.prediction, self.timestep_density, self.loss_weight, self.noise_path)
        objective.check_sampling(self.sampler, self.start)
        if self.guidance != 1 and not self.condition_dropout:
            raise UserError(
                f"--guidance {self.guidance:g}: needs conditions dropped in training; set --condition-dropout 0.2, or "
                "--guidance 1"
            )

    def check_training_images(self) -> None:
        """Refuse what cannot be made of the training images, and their labels."""
        check_fraction(self, "label_fraction", "without any label train with --unlabeled")
        if self.unlabeled and self.label_fraction < 1:
            raise UserError(f"--label-fraction {self.label_fraction}: --unlabeled reads no label; leave one out")


# Of the help, in its order.
SECTIONS = {
    "networks": NetworkConfig,
    "data": DataConfig,
    "method": MethodConfig,
    "head": HeadConfig,
    "sampling": SamplingConfig,
    "optimizer": OptimizerConfig,
    "run": RunConfig,
}


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate a run or a checkpoint: teacher, head read-out and linear probe."""

    checkpoint: tyro.conf.Positional[str] = ""
    """Run folder, or a checkpoint file."""
    dataset: str | None = None
    """Data set or folder of images; a run's own if not given."""
    data_root: str | None = None
    """Folder of data sets; a run's own if not given."""
    teacher: str | None = None
    """Teacher network; a run's own if not given."""
    teacher_weights: str | None = None
    """Teacher's weights; a run's own if not given."""
    teacher_mean: tuple[float, float, float] | None = None
    """Mean of the teacher's images, red, green, blue in [0, 1] units; a run's own if not given."""
    teacher_std: tuple[float, float, float] | None = None
    """Standard deviation of the teacher's images, like `teacher_mean`."""
    student: str | None = None
    """Student network; a run's own if not given."""
    image_size: int | None = None
    """Side of the images; a run's own if not given."""
    best: bool = False
    """Evaluate the run's best checkpoint instead of its last."""
    weights: Literal["trained", "ema"] | None = None
    """The trained weights, or their moving average; those that the checkpoint reports if not given."""
    images: int = 0
    """Evaluate the first so many test images; 0 takes all."""
    sampler: Literal["ancestral", "deterministic"] | None = None
    """ancestral (the paper's), or deterministic: the DDIM path from zero, of one or a few steps; a run's own if not
    given."""
    steps: int | None = None
    """Sampling steps (the paper: 100 for CIFAR, 64 for ImageNet); a run's own if not given."""
    num_samples: int | None = None
    """Features drawn and averaged per image (the paper: 5); a run's own if not given."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1 is none, and saves half the time; a run's own if not given."""
    start: int | None = None
    """Timestep at which the deterministic sampler starts; a run's own if not given."""
    paper: bool = False
    """The paper's sampler, over all flags of sampling."""
    precision: Literal["auto", "bf16", "fp32"] | None = None
    """bf16 autocast, or fp32; auto: bf16 where the hardware multiplies in it; a run's own if not given."""
    seed: int | None = None
    """Seed of the sampling noise; a run's own if not given."""
    json: str | None = None
    """File for the figures; a run's own evaluation.json if not given."""
    dry_run: bool = False
    """Build everything, print the plan and what is missing, and stop."""

    def check(self) -> None:
        check_ranges(self)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_ranges(config) -> None:
    """Refuse numbers out of their `RANGES`, and those that are none."""
    for name in field_names(type(config)):
        given = getattr(config, name)
        values = given if isinstance(given, tuple) else (given,)
        shown = f"{_flag(name)} {' '.join(map(str, values))}"
        if name in POSITIVE and not all(value is None or 0 < value < math.inf for value in values):
            raise UserError(f"{shown}: must be positive")
        low, high = RANGES.get(name, (None, None))
        if low is None or all(value is None or (low <= value <= high and math.isfinite(value)) for value in values):
            continue
        if math.isfinite(high):
            raise UserError(f"{shown}: must be from {low} to {high}")
        least = {1: "at least 1", 0: "0 or more"}.get(low, "a number")
        raise UserError(f"{shown}: must be {least}")


def check_fraction(config, name: str, remedy: str) -> None:
    value = getattr(config, name)
    if not 0 < value <= 1:
        raise UserError(f"{_flag(name)} {value}: must be above 0 and at most 1; {remedy}")
