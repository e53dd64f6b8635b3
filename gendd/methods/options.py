"""Options of the methods that train a generative head."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gendd.diffusion.samplers import check_sampling
from gendd.diffusion.schedule import NUM_TIMESTEPS
from gendd.ranges import Count, CountOrNone, Number, Range, Share, check_ranges, field_values

# How the head of a checkpoint file that predicts the noise is sampled (docs/evaluation.md has the measurement).
NOISE_OUTPUT: dict[str, Any] = {"steps": 4, "guidance": 2.0, "start": 800}


@dataclass(frozen=True)
class HeadOptions:
    """The generative head and its loss."""

    token_dim: Count = 64
    """Width d of a token, or the nearest that divides the teacher's feature width."""
    width: Count = 1024
    """Width of the denoiser."""
    depth: Count = 1
    """Residual blocks of the denoiser (the paper: 3)."""
    trunk_depth: CountOrNone = 3
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
    repeats: Count = 16
    """K, draws of timestep and noise per token and step (the paper: 30 for CIFAR, 10 for ImageNet)."""
    timesteps: Literal["independent", "shared", "paired"] = "shared"
    """How the timesteps are drawn: independently (the paper's); K evenly spread ones, which all images of a batch
    share; or in pairs of opposite noise (K even)."""
    condition_dropout: Share = 0.0
    """Probability of a zero condition, per image, token and draw (the paper: 0.2); guidance needs it."""

    feature_space: Literal["auto", "raw", "standardized"] = "auto"
    """Units of the features that the head generates: the teacher's own (the paper's), or standardized, by mean and
    standard deviation of each dimension; auto: raw where the teacher classifies, standardized otherwise."""

    def head(self) -> dict:
        """Keyword arguments of `SplitTokenHead`."""
        values = field_values(self, HeadOptions)
        del values["feature_space"]
        return values

    def fitting(self, feature_width: int) -> dict:
        """The same with the token width nearest to `token_dim` that divides a feature's, in ratio."""
        divisors = (n for n in range(1, feature_width + 1) if feature_width % n == 0)
        near = min(divisors, key=lambda n: (max(n, self.token_dim) / min(n, self.token_dim), n))
        return self.head() | {"token_dim": near}

    def standardizes(self, classifier: object | None) -> bool:
        """Whether features of a teacher with this classifier, or none, are standardized."""
        return self.feature_space == "standardized" or (self.feature_space == "auto" and classifier is None)


@dataclass(frozen=True)
class SamplingOptions:
    """How the head is sampled in evaluation."""

    sampler: Literal["ancestral", "deterministic"] = "deterministic"
    """ancestral (the paper's), or deterministic: the DDIM path from zero, of one or a few steps."""
    steps: Count = 1
    """Sampling steps (the paper: 100 for CIFAR, 64 for ImageNet)."""
    num_samples: Count = 1
    """Features drawn and averaged per image (the paper: 5). The deterministic sampler has one outcome."""
    guidance: Number = 1.0
    """Scale of classifier-free guidance (the paper: 2); 1 is none, takes half the time, and needs no dropped conditions
    in training."""
    start: Annotated[int, Range(2, NUM_TIMESTEPS - 1)] = 999
    """Timestep at which the deterministic sampler starts; with noise prediction at most 990, such as 800."""

    def sampling(self) -> dict:
        """Keyword arguments of `SplitTokenHead.sample`."""
        return field_values(self, SamplingOptions)

    def check_sampling(self) -> None:
        check_ranges(self)
        check_sampling(self.sampler, self.steps, self.num_samples, self.start)
