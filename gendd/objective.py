"""What the head is trained to predict, at which noise levels, and how much each level counts.

x_0 is the clean feature token, n the noise, x_t = a_t x_0 + b_t n the noisy token (a, b: `NoiseSchedule`).

prediction  noise     n, as the paper; its learned variance comes with it
            velocity  a_t n - b_t x_0 (Salimans and Ho, 2022); on the straight path n - x_0 (flow matching)
            feature   x_0 itself; at the highest noise this is regression
density     of the timesteps t that training looks at: uniform (the paper's), high-noise, or logit-normal
            (Esser et al., 2024)
weight      of the clean feature's squared error: own (the squared error of what is predicted: SNR_t for noise,
            1 / b_t^2 for velocity, 1 for feature), clean (1 for all), or min-snr (min(SNR_t, 5); Hang et al., 2023)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gendd.diffusion import NUM_TIMESTEPS, NoiseSchedule
from gendd.errors import UserError

MAX_SNR = 5.0
# Share of the high-noise density that is spread evenly.
EVEN_SHARE = 0.2
# The error of the feature that a noise prediction means is 1 / SNR times that of the noise: 4e8 times at t = 999.
LATEST_FOR_NOISE = 990


@dataclass(frozen=True)
class Objective:
    """Raises UserError for choices that do not go together."""

    prediction: str = "noise"
    density: str = "uniform"
    weight: str = "own"
    path: str = "cosine"

    def __post_init__(self):
        if self.prediction == "noise" and self.path == "straight":
            raise UserError(
                "--noise-path straight: ends in pure noise, of which --prediction noise tells no feature; choose "
                "--prediction velocity or feature"
            )
        if self.prediction == "noise" and self.weight == "clean":
            raise UserError(
                "--loss-weight clean: grows without bound with the noise where --prediction noise is trained; choose "
                "--prediction velocity or feature, or another weight"
            )

    def check_sampling(self, sampler: str, start: int) -> None:
        """Raises UserError for a sampler that the objective does not allow."""
        if sampler == "ancestral" and self.path == "straight":
            raise UserError("--sampler ancestral: --noise-path straight has none; choose --sampler deterministic")
        if sampler == "deterministic" and self.prediction == "noise" and start > LATEST_FOR_NOISE:
            raise UserError(
                f"--start {start}: where there is hardly any signal, --prediction noise tells no feature; choose at "
                f"most {LATEST_FOR_NOISE}, such as 800"
            )

    def timestep_density(self) -> Tensor:
        """Probability (1000,) float64 of each timestep in training."""
        time = (torch.arange(NUM_TIMESTEPS, dtype=torch.float64) + 0.5) / NUM_TIMESTEPS
        if self.density == "high-noise":
            return mostly(time.square())
        if self.density == "logit-normal":
            odds = time.logit()
            density = (-0.5 * odds.square()).exp() / (time * (1 - time))
            return density / density.sum()
        return torch.full_like(time, 1 / NUM_TIMESTEPS)

    def proposal(self) -> Tensor:
        """Probability (1000,) float64 of drawing each timestep where draws are weighted to the density.

        The gradient that the noise's error sends to the condition falls with the noise, about as (1 - t / 1000)^2. A
        fifth is spread evenly, so that a timestep's draws weigh at most five times what uniform ones do.
        """
        if (self.prediction, self.density, self.weight) != ("noise", "uniform", "own"):
            return self.timestep_density()
        signal = 1 - (torch.arange(NUM_TIMESTEPS, dtype=torch.float64) + 0.5) / NUM_TIMESTEPS
        return mostly(signal.square())

    def error_weight(self, schedule: NoiseSchedule) -> Tensor:
        """Weight (1000,) float64 of the predicted quantity's squared error at each timestep."""
        snr = schedule.exact["signal_scale"].square() / schedule.exact["noise_scale"].square()
        own = torch.ones_like(snr)
        if self.weight == "own":
            return own
        # Squared error of the clean feature for one of what is predicted.
        clean = {"noise": 1 / snr, "velocity": schedule.exact["noise_scale"].square(), "feature": own}[self.prediction]
        return clean if self.weight == "clean" else clean * snr.clamp(max=MAX_SNR)

    def target(self, schedule: NoiseSchedule, x_start: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network is to predict, for x_start, noise (..., d) and t (...)."""
        if self.prediction == "feature":
            return x_start
        if self.path == "straight":
            return noise - x_start
        return schedule.signal_scale[t, None] * noise - schedule.noise_scale[t, None] * x_start

    def denoised(self, schedule: NoiseSchedule, output: Tensor, x: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """x_0 and n (..., d) that a prediction for x, at the schedule's `index`-th timestep, means."""
        signal, noise_scale = schedule.signal_scale[index], schedule.noise_scale[index]
        if self.prediction == "noise":
            return (x - noise_scale * output) / signal, output
        if self.prediction == "feature":
            x_start = output
        else:
            x_start = (x if self.path == "straight" else signal * x) - noise_scale * output
        return x_start, (x - signal * x_start) / noise_scale


def mostly(values: Tensor) -> Tensor:
    """A density proportional to `values`, but for a share that is spread evenly."""
    return EVEN_SHARE / len(values) + (1 - EVEN_SHARE) * values / values.sum()
