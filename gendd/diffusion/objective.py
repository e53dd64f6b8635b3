"""The objective of the head: the predicted quantity, the density of the noise levels, and their weights.

x_0 is the clean feature token, n the noise, x_t = a_t x_0 + b_t n the noisy token (a, b: `NoiseSchedule`).

prediction  noise     n, as in the paper, with a learned variance
            velocity  a_t n - b_t x_0 (Salimans and Ho, 2022); on the straight path n - x_0 (flow matching)
            feature   x_0; at the highest noise this is regression
density     of the timesteps t in training: uniform (the paper's), high-noise, or logit-normal (Esser et al., 2024)
weight      none     the squared error of the prediction. It equals the squared error of the feature, weighted by SNR_t
                     for noise, by 1 / b_t^2 for velocity, by 1 for feature.
            feature  the squared error of the feature
            min-snr  the squared error of the feature times min(SNR_t, 5) (Hang et al., 2023)
"""

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.diffusion.schedule import NUM_TIMESTEPS, NoiseSchedule

MAX_SNR = 5.0
# Uniform share of the high-noise density.
EVEN_SHARE = 0.2
# The feature's squared error is the noise prediction's divided by the SNR: 4e8 times larger at t = 999.
LATEST_FOR_NOISE = 990


class Objective(nn.Module):
    """The objective: target, weighted error, and conversion of a prediction to a feature.

    Raises:
        UserError: the options do not work together.
    """

    def __init__(self, prediction: str = "noise", density: str = "uniform", weight: str = "none", path: str = "cosine"):
        super().__init__()
        self.prediction, self.density, self.weight, self.path = prediction, density, weight, path
        self.learns_variance = prediction == "noise"
        self.terms = ("mse", "vb") if self.learns_variance else ("mse",)
        if prediction == "noise" and path == "straight":
            raise InvalidSetting(
                "noise_path",
                "straight",
                "does not work with `prediction` noise: its last timestep is pure noise; choose "
                "`prediction` velocity or feature",
            )
        if prediction == "noise" and weight == "feature":
            raise InvalidSetting(
                "loss_weighting",
                "feature",
                "does not work with `prediction` noise: the weight grows without bound; choose "
                "`prediction` velocity or feature, or another weight",
            )
        self.schedule = NoiseSchedule(path=path)
        self.register_buffer("error_weight", self._error_weight().float(), persistent=False)

    def check_sampling(self, sampler: str, start: int) -> None:
        """Raise UserError for a sampler that the objective does not allow."""
        if sampler == "ancestral" and self.path == "straight":
            raise InvalidSetting(
                "sampler", "ancestral", "does not work with `noise_path` straight; choose `sampler` deterministic"
            )
        if sampler == "deterministic" and self.prediction == "noise" and start > LATEST_FOR_NOISE:
            raise InvalidSetting(
                "sampling_start",
                start,
                f"with `prediction` noise the sampler cannot start at almost pure noise; choose at "
                f"most {LATEST_FOR_NOISE}, such as 800",
            )

    def timestep_density(self) -> Tensor:
        """Return the probability (1000,) float64 of each timestep in training."""
        time = (torch.arange(NUM_TIMESTEPS, dtype=torch.float64) + 0.5) / NUM_TIMESTEPS
        if self.density == "high-noise":
            return with_even_share(time.square())
        if self.density == "logit-normal":
            odds = time.logit()
            density = (-0.5 * odds.square()).exp() / (time * (1 - time))
            return density / density.sum()
        return torch.full_like(time, 1 / NUM_TIMESTEPS)

    def proposal(self) -> Tensor:
        """Return the probability (1000,) float64 of each timestep in weighted draws.

        With noise prediction, the gradient of the condition falls with the noise, about as (1 - t / 1000)^2. A fifth of
        the proposal is uniform, so the weight of a draw is at most five times the weight of a uniform draw.
        """
        if (self.prediction, self.density, self.weight) != ("noise", "uniform", "none"):
            return self.timestep_density()
        signal = 1 - (torch.arange(NUM_TIMESTEPS, dtype=torch.float64) + 0.5) / NUM_TIMESTEPS
        return with_even_share(signal.square())

    def _error_weight(self) -> Tensor:
        """Return the weight (1000,) float64 of the predicted quantity's squared error at each timestep."""
        signal_scale, noise_scale = self.schedule.exact["signal_scale"], self.schedule.exact["noise_scale"]
        snr = signal_scale.square() / noise_scale.square()
        ones = torch.ones_like(snr)
        if self.weight == "none":
            return ones
        # Squared error of the clean feature divided by the squared error of the predicted quantity.
        clean = {"noise": 1 / snr, "velocity": noise_scale.square(), "feature": ones}[self.prediction]
        return clean if self.weight == "feature" else clean * snr.clamp(max=MAX_SNR)

    def errors(self, output: Tensor, x_start: Tensor, noise: Tensor, t: Tensor) -> list[Tensor]:
        """Return the `terms` of the loss, each (...).

        Args:
            output: (..., d) the network's prediction, or (..., 2d) with the variance, for the noisy tokens at t (...).
            x_start, noise: (..., d).
        """
        weight = self.error_weight[t]
        if self.learns_variance:
            mse, vb = self.schedule.loss_terms(output, x_start, noise, t)
            return [weight * mse, vb]
        return [weight * (output.float() - self.target(x_start, noise, t)).square().mean(-1)]

    def target(self, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the clean feature or the velocity (..., d) of x_start, noise (..., d) at t (...)."""
        if self.prediction == "feature":
            return x_start
        if self.path == "straight":
            return noise - x_start
        return self.schedule.signal_scale[t, None] * noise - self.schedule.noise_scale[t, None] * x_start

    def split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Split the network's output into prediction and variance coefficient, each (..., d).

        Without a learned variance, the variance is the posterior's: coefficient -1.
        """
        if self.learns_variance:
            return output.chunk(2, dim=-1)
        return output, -torch.ones_like(output)

    def denoised(self, schedule: NoiseSchedule, output: Tensor, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Return x_0 and n (..., d) from a prediction for x at the `index`-th timestep of a schedule."""
        signal, noise_scale = schedule.signal_scale[index], schedule.noise_scale[index]
        if self.prediction == "noise":
            return (x - noise_scale * output) / signal, output
        if self.prediction == "feature":
            x_start = output
        else:
            x_start = (x if self.path == "straight" else signal * x) - noise_scale * output
        return x_start, (x - signal * x_start) / noise_scale


def with_even_share(values: Tensor) -> Tensor:
    """Return a density proportional to `values`, mixed with the uniform density by `EVEN_SHARE`."""
    return EVEN_SHARE / len(values) + (1 - EVEN_SHARE) * values / values.sum()
