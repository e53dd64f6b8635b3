"""What the head is trained to predict, at which noise levels, and how much each level counts.

x_0 is the clean feature token, n the noise, x_t = a_t x_0 + b_t n the noisy token (a, b: `NoiseSchedule`).

prediction  noise     n, as the paper; its learned variance comes with it
            velocity  a_t n - b_t x_0 (Salimans and Ho, 2022); on the straight path n - x_0 (flow matching)
            feature   x_0 itself; at the highest noise this is regression
density     of the timesteps t that training looks at: uniform (the paper's), high-noise, or logit-normal
            (Esser et al., 2024)
weight      none: the squared error of the prediction. That weighs the squared error of the feature by SNR_t for
            noise, by 1 / b_t^2 for velocity, by 1 for feature. feature: weight 1 of the feature's squared error.
            min-snr: min(SNR_t, 5) (Hang et al., 2023)
"""

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.diffusion.schedule import NUM_TIMESTEPS, NoiseSchedule

MAX_SNR = 5.0
# Share of the high-noise density that is spread evenly.
EVEN_SHARE = 0.2
# A noise prediction's error counts 1 / SNR times in the feature that it means: 4e8 times at t = 999.
LATEST_FOR_NOISE = 990


class Objective(nn.Module):
    """What the head predicts, how its error counts, and how a prediction is turned into a feature.

    Raises:
        UserError: choices that do not work together.
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
                "does not work with `prediction` noise, its last timestep is pure noise. Choose "
                "`prediction` velocity or feature",
            )
        if prediction == "noise" and weight == "feature":
            raise InvalidSetting(
                "loss_weighting",
                "feature",
                "does not work with `prediction` noise, the weight grows without bound. Choose "
                "`prediction` velocity or feature, or another weight",
            )
        self.schedule = NoiseSchedule(path=path)
        self.register_buffer("error_weight", self._error_weight().float(), persistent=False)

    def check_sampling(self, sampler: str, start: int) -> None:
        """Raise UserError for a sampler that the objective does not allow."""
        if sampler == "ancestral" and self.path == "straight":
            raise InvalidSetting(
                "sampler", "ancestral", "`noise_path` straight has none; choose `sampler` deterministic"
            )
        if sampler == "deterministic" and self.prediction == "noise" and start > LATEST_FOR_NOISE:
            raise InvalidSetting(
                "sampling_start",
                start,
                f"where there is hardly any signal, `prediction` noise tells no feature; choose at "
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
        """Return the probability (1000,) float64 of drawing each timestep where draws are weighted to the density.

        The gradient that the noise's error sends to the condition falls with the noise, about as (1 - t / 1000)^2. A
        fifth is spread evenly, so that a timestep's draws weigh at most five times what uniform ones do.
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
        # Squared error of the clean feature per squared error of what is predicted.
        clean = {"noise": 1 / snr, "velocity": noise_scale.square(), "feature": ones}[self.prediction]
        return clean if self.weight == "feature" else clean * snr.clamp(max=MAX_SNR)

    def errors(self, output: Tensor, x_start: Tensor, noise: Tensor, t: Tensor) -> list[Tensor]:
        """Return the loss's `terms`, each (...).

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

        A variance that is not learned is the posterior's: coefficient -1.
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
    """Return a density proportional to `values`, with a share of it spread evenly."""
    return EVEN_SHARE / len(values) + (1 - EVEN_SHARE) * values / values.sum()
