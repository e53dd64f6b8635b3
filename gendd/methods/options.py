"""Options of the methods that train a generative head."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gendd.core.ranges import Count, CountOrNone, Number, Positive, Range, Share, check_values, field_values
from gendd.diffusion.options import HeadOptions
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
class FeatureOptions(HeadOptions):
    """The features that the head generates."""

    feature_space: Literal["auto", "raw", "standardized"] = "auto"
    """Units of the generated features: the teacher's (raw, the paper), or standardized per dimension. auto is raw if
    the teacher classifies, else standardized."""

    def standardizes(self, classifier: object | None) -> bool:
        """Return True if the features of a teacher with this classifier (None without) are standardized."""
        return self.feature_space == "standardized" or (self.feature_space == "auto" and classifier is None)


@dataclass(frozen=True)
class ProbeOptions:
    """The linear probe on the backbone."""

    probe_gradient: Share = 0.0
    """Share of the linear probe's gradient that reaches the backbone, such as 0.05. 0 (the paper) stops the gradient,
    and the probe learns from the labels. With a share, it learns the logits of the teacher's classifier on the
    contracted target, by KL divergence at temperature 2; with kd-head, it has the loss of the head. Without classes,
    the share applies to the linear map."""


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
