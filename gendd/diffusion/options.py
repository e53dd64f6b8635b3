"""Options of the split-token head, with their types and ranges."""

from dataclasses import dataclass
from typing import Literal

from gendd.core.ranges import Count, CountOrNone, Share, field_values


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

    def fitting(self, feature_width: int) -> dict:
        """Return options of `SplitTokenHead` with the divisor of the feature width that is nearest to `token_dim`."""
        return field_values(self, HeadOptions) | {"token_dim": nearest_divisor(feature_width, self.token_dim)}


def nearest_divisor(width: int, wanted: int) -> int:
    """Return the divisor of a width that is nearest in ratio to a wanted one."""
    divisors = (n for n in range(1, width + 1) if width % n == 0)
    return min(divisors, key=lambda n: (max(n, wanted) / min(n, wanted), n))
