"""Samplers of features: ancestral (the paper's) and deterministic."""

from collections.abc import Callable

import torch
from torch import Tensor

from gendd.core.errors import InvalidSetting
from gendd.diffusion.schedule import NUM_TIMESTEPS, NoiseSchedule

SAMPLERS = ("ancestral", "deterministic")

# (x, index) -> the x_0 and the noise that the network sees in x at the schedule's index-th timestep, and its variance
# coefficient in [-1, 1], each shaped like x.
Predict = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]


def spaced_timesteps(steps: int) -> Tensor:
    """`steps` of the 1000 timesteps, evenly spaced, first and last included."""
    return torch.linspace(0, NUM_TIMESTEPS - 1, steps, dtype=torch.float64).round().long()


def zero_path_timesteps(start: int, steps: int) -> Tensor:
    """The `steps` last ends, in increasing order, of steps + 1 even parts of [0, start]; `start` is the last of them.

    The step to x_0, the longest, crosses two parts: at little noise the prediction of x_0 hardly changes any more.
    """
    return torch.linspace(0, start, steps + 2, dtype=torch.float64)[2:].round().long()


def sample_ancestral(schedule: NoiseSchedule, predict: Predict, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
    """Ancestral sampling from x at the schedule's last timestep down to a sample of x_0, which is not clipped.

    `noise` is asked for a fresh draw at each step but the last.
    """
    for index in reversed(range(len(schedule.timesteps))):
        _, eps, variance = predict(x, index)
        mean = schedule.inverse_signal_step[index] * (x - schedule.noise_step[index] * eps)
        if index == 0:
            return mean
        x = mean + (0.5 * schedule.log_variance(variance, index)).exp() * noise()


def sample_deterministic(schedule: NoiseSchedule, predict: Predict, x: Tensor) -> Tensor:
    """DDIM path (eta = 0; Song et al., 2021) from x at the schedule's last timestep to x_0; on the straight path, Euler
    steps of its flow."""
    for index in reversed(range(len(schedule.timesteps))):
        x_start, eps, _ = predict(x, index)
        if index == 0:
            return x_start
        x = schedule.signal_scale[index - 1] * x_start + schedule.noise_scale[index - 1] * eps


def check_sampling(sampler: str, steps: int, num_samples: int, start: int) -> None:
    """Raises UserError for settings that a sampler cannot have."""
    if sampler not in SAMPLERS:
        raise InvalidSetting("sampler", sampler, f"choose one of {', '.join(SAMPLERS)}")
    if not 2 <= start < NUM_TIMESTEPS:
        raise InvalidSetting("sampling_start", start, f"choose a timestep from 2 to {NUM_TIMESTEPS - 1}")
    least = 1 if sampler == "deterministic" else 2
    most = start - 1 if sampler == "deterministic" else NUM_TIMESTEPS
    if not least <= steps <= most:
        raise InvalidSetting("sampling_steps", steps, f"the {sampler} sampler takes {least} to {most}")
    if num_samples < 1:
        raise InvalidSetting("num_samples", num_samples, "must be at least 1")
    if sampler == "deterministic" and num_samples != 1:
        raise InvalidSetting(
            "num_samples",
            num_samples,
            "the deterministic sampler has one outcome; set it to 1, or choose `sampler` ancestral",
        )
