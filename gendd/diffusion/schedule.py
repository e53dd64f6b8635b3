"""Gaussian diffusion over feature tokens: the noise schedule and the loss terms of noise prediction.

The paper uses improved DDPM (Nichol and Dhariwal, 2021): cosine schedule, noise prediction, learned variance. The
variance is interpolated between its two analytic bounds. The variational bound trains it; its gradient does not reach
the noise prediction. All arithmetic is fp32, also if the network runs under autocast.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

NUM_TIMESTEPS = 1000


def cosine_alphas_cumprod() -> np.ndarray:
    """Return the cumulative signal share abar of the cosine schedule, (1000,) float64."""

    def signal(time: np.ndarray) -> np.ndarray:
        return np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = np.arange(NUM_TIMESTEPS + 1) / NUM_TIMESTEPS
    betas = np.minimum(1 - signal(steps[1:]) / signal(steps[:-1]), 0.999)
    return np.cumprod(1 - betas)


class NoiseSchedule(nn.Module):
    """Tables of the schedule at some of its 1000 timesteps, for training and sampling.

    Args:
        timesteps: increasing indices into the 1000 training steps; all of them by default. With fewer timesteps, each
            step is a single, larger step of the same process (respacing).
        path: "cosine" (the paper's), or "straight": from the feature to pure noise at constant speed (flow matching;
            Lipman et al., 2023; Liu et al., 2023). The straight path does not support ancestral sampling.

    `exact` holds the float64 values; the float32 buffers of the same names are used in computations. NumPy computes
    them, so that torch.export sees constants.
    """

    def __init__(self, timesteps: np.ndarray | None = None, path: str = "cosine"):
        super().__init__()
        timesteps = np.arange(NUM_TIMESTEPS) if timesteps is None else timesteps
        self.timesteps = timesteps.tolist()
        tables = _straight(timesteps) if path == "straight" else _cosine(timesteps)
        self.exact = {name: torch.from_numpy(values) for name, values in tables.items()}
        for name, values in tables.items():
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def add_noise(self, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = a_t x_0 + b_t noise; on the cosine path a_t^2 = abar_t, b_t^2 = 1 - abar_t.

        Args:
            x_start, noise: (..., d).
            t: (...).
        """
        return self.signal_scale[t, None] * x_start + self.noise_scale[t, None] * noise

    def log_variance(self, variance: Tensor, t: Tensor | int) -> Tensor:
        """Interpolate log sigma^2 for the network's variance coefficient (..., d)."""
        share = (variance + 1) / 2
        upper, lower = self.log_betas[t, None], self.posterior_log_variance_clipped[t, None]
        return share * upper + (1 - share) * lower

    def loss_terms(self, output: Tensor, x_start: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return both terms of the hybrid loss, each (...), averaged over the token's d dimensions.

        Args:
            output: (..., 2d), the network's noise prediction and variance coefficient for `add_noise(...)`.
            x_start, noise: (..., d).
            t: (...) int64.

        Returns:
            mse of the noise prediction, and the variational bound in bits (KL to the posterior; at t = 0 the
            discretized Gaussian log-likelihood). The bound trains only the variance.
        """
        eps, variance = output.float().chunk(2, dim=-1)
        error = noise - eps
        mse = error.square().mean(-1)

        log_variance = self.log_variance(variance, t)
        # Model mean minus posterior mean. Both are linear in x_t, which cancels, so this subtracts no large numbers.
        shift = (self.inverse_signal_step * self.noise_step)[t, None] * error.detach()
        posterior_log_variance = self.posterior_log_variance_clipped[t, None]
        difference = posterior_log_variance - log_variance
        kl = 0.5 * (difference.exp() - 1 - difference + shift.square() * (-log_variance).exp())
        likelihood = discretized_gaussian_log_likelihood(x_start, x_start + shift, 0.5 * log_variance)
        vb = torch.where(t[..., None] == 0, -likelihood, kl).mean(-1) / math.log(2)
        return mse, vb


def _straight(timesteps: np.ndarray) -> dict[str, np.ndarray]:
    noise = (timesteps + 1) / NUM_TIMESTEPS
    return {"signal_scale": 1 - noise, "noise_scale": noise}


def _cosine(timesteps: np.ndarray) -> dict[str, np.ndarray]:
    alphas_cumprod = cosine_alphas_cumprod()[timesteps]
    previous = np.concatenate([[1.0], alphas_cumprod[:-1]])
    alphas = alphas_cumprod / previous
    betas = 1 - alphas
    posterior_variance = betas * (1 - previous) / (1 - alphas_cumprod)
    # The first posterior variance is 0; the next one replaces it in the logarithm.
    clipped = np.concatenate([posterior_variance[1:2], posterior_variance[1:]]) if len(betas) > 1 else betas
    return {
        "alphas_cumprod": alphas_cumprod,
        "betas": betas,
        "log_betas": np.log(betas),
        "posterior_log_variance_clipped": np.log(clipped),
        "signal_scale": np.sqrt(alphas_cumprod),
        "noise_scale": np.sqrt(1 - alphas_cumprod),
        "inverse_signal_step": 1 / np.sqrt(alphas),
        # The mean of the model is (x_t - eps * noise_step) / sqrt(alpha).
        "noise_step": betas / np.sqrt(1 - alphas_cumprod),
    }


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Return the log-probability (nats) of the bin of half-width 1/255 around x; bins beyond +-0.999 are open-ended."""

    def normal_cdf(value: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    centered, inverse_scale = x - mean, (-log_scale).exp()
    upper = normal_cdf(inverse_scale * (centered + 1 / 255))
    lower = normal_cdf(inverse_scale * (centered - 1 / 255))
    probability = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return probability.clamp(min=1e-12).log()
