"""Options of the methods that train a generative head."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gendd.core.ranges import Count, CountOrNone, Number, Positive, Range, Share, check_values, field_values
from gendd.diffusion.samplers import check_sampling
from gendd.diffusion.schedule import NUM_TIMESTEPS

# Sampling of a checkpoint file whose head predicts the noise (docs/evaluation.md contains the measurement).
NOISE_OUTPUT: dict[str, Any] = {"sampling_steps": 4, "guidance": 2.0, "sampling_start": 800}


@dataclass(frozen=True)
class PretrainOptions:
    """Stage 1, a separate run: the backbone learns through the teacher's classifier."""

    pretrain_epochs: CountOrNone = 0
    """Epochs of stage 1 (the paper: 50 for CIFAR, 20 for ImageNet). 0 skips stage 1. Runs with the same data, pair and
    seed share it: the first run trains it, the others wait."""
    pretrain_lr: Positive | None = None
    """Learning rate of stage 1, whose schedule is a cosine without warm-up. --lr if not given."""
    pretrain_best: bool = False
    """Start from the best epoch of stage 1. The default is the last epoch."""
    pretrain_name: str = "pretrain"
    """Name of stage 1's run folder."""


@dataclass(frozen=True)
class HeadOptions:
    """The generative head and its loss."""

    token_dim: Count = 64
    """Width of a token. If it does not divide the teacher's feature width, the nearest divisor is used."""
    width: Count = 1024
    """Width of the denoiser."""
    depth: Count = 1
    """Residual blocks of the denoiser (the paper: 3)."""
    trunk_depth: CountOrNone = 3
    """Residual blocks of the network that embeds the condition. Its output is added to the denoiser's input. With 0
    (the paper), the condition enters through AdaLN modulation."""
    prediction: Literal["noise", "velocity", "feature"] = "feature"
    """Output of the denoiser: the noise with its variance (the paper), the velocity, or the clean feature."""
    timestep_density: Literal["uniform", "high-noise", "logit-normal"] = "high-noise"
    """Density of the timesteps in training: uniform (the paper), mostly high noise, or logit-normal."""
    loss_weighting: Literal["none", "feature", "min-snr"] = "none"
    """Weighting of the noise levels in the loss. none: squared error of the prediction (the paper). feature: squared
    error of the clean feature. min-snr: squared error of the clean feature times min(signal-to-noise ratio, 5)."""
    noise_path: Literal["cosine", "straight"] = "cosine"
    """Path from feature to noise: the cosine schedule (the paper), or a straight line (flow matching)."""
    repeats: Count = 16
    """Draws of timestep and noise per token and step, K (the paper: 30 for CIFAR, 10 for ImageNet)."""
    draw_scheme: Literal["independent", "shared", "antithetic"] = "shared"
    """Scheme of the draws. independent: one timestep per draw (the paper). shared: K stratified timesteps for the whole
    batch. antithetic: pairs with opposite noise; K must be even."""
    condition_dropout: Share = 0.0
    """Probability of a zero condition per image, token and draw (the paper: 0.2). Guidance needs it."""

    feature_space: Literal["auto", "raw", "standardized"] = "auto"
    """Units of the generated features: the teacher's (raw, the paper), or standardized per dimension. auto is raw if
    the teacher classifies, else standardized."""

    def head(self) -> dict:
        """Return keyword arguments of `SplitTokenHead`."""
        values = field_values(self, HeadOptions)
        del values["feature_space"]
        return values

    def fitting(self, feature_width: int) -> dict:
        """Return `head()` with the divisor of the feature width that is nearest in ratio to `token_dim`."""
        return self.head() | {"token_dim": nearest_divisor(feature_width, self.token_dim)}

    def standardizes(self, classifier: object | None) -> bool:
        """Return True if the features of a teacher with this classifier (None without) are standardized."""
        return self.feature_space == "standardized" or (self.feature_space == "auto" and classifier is None)


def nearest_divisor(width: int, wanted: int) -> int:
    """Return the divisor of a width that is nearest in ratio to a wanted one."""
    divisors = (n for n in range(1, width + 1) if width % n == 0)
    return min(divisors, key=lambda n: (max(n, wanted) / min(n, wanted), n))


@dataclass(frozen=True)
class ProbeOptions:
    """The linear probe beside the head."""

    probe_gradient: Share = 0.0
    """Share of the linear probe's gradient that reaches the backbone, such as 0.05. 0 (the paper) stops the gradient,
    and the probe learns from the labels. With a share, it learns the logits of the teacher's classifier on the
    contracted target, by KL divergence at temperature 2. Without classes, the share applies to the linear map."""


@dataclass(frozen=True)
class SamplingOptions:
    """Sampling of the head in evaluation."""

    sampler: Literal["ancestral", "deterministic"] = "deterministic"
    """Sampler: ancestral (the paper), or deterministic (the DDIM path from zero, in one or a few steps)."""
    sampling_steps: Count = 1
    """Sampling steps (the paper: 100 for CIFAR, 64 for ImageNet)."""
    num_samples: Count = 1
    """Sampled features to average per image (the paper: 5). The deterministic sampler takes 1."""
    guidance: Number = 1.0
    """Scale of classifier-free guidance (the paper: 2). 1 turns it off and halves the time."""
    sampling_start: Annotated[int, Range(2, NUM_TIMESTEPS - 1)] = 999
    """First timestep of the deterministic sampler. At most 990 with noise prediction, such as 800."""

    def sampling(self) -> dict:
        """Return keyword arguments of `SplitTokenHead.sample`."""
        return {name.removeprefix("sampling_"): value for name, value in field_values(self, SamplingOptions).items()}

    def check_sampling(self) -> None:
        check_values(self)
        check_sampling(self.sampler, self.sampling_steps, self.num_samples, self.sampling_start)
