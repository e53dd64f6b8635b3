"""Samplers of features: ancestral (the paper's) and deterministic."""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from gendd.core.errors import InvalidSetting
from gendd.diffusion.schedule import NUM_TIMESTEPS, NoiseSchedule

SAMPLERS = ("ancestral", "deterministic")

# (x, index) -> predicted x_0, noise and variance coefficient in [-1, 1] at the schedule's index-th timestep, each with
# the shape of x.
Predict = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]


def spaced_timesteps(steps: int) -> np.ndarray:
    """Return evenly spaced timesteps, (steps,), with the first and the last of the 1000."""
    return _spaced(NUM_TIMESTEPS - 1, steps)


def zero_path_timesteps(start: int, steps: int) -> np.ndarray:
    """Return timesteps (steps,) up to `start`: the ends of steps + 1 equal parts of [0, start], except for the first.

    So the last sampling step, to x_0, covers two parts: at little noise the prediction of x_0 hardly changes.
    """
    return _spaced(start, steps + 2)[2:]


def _spaced(end: int, count: int) -> np.ndarray:
    """Return `count` evenly spaced integers from 0 to `end`. Like torch.linspace, count the second half from the end.

    np.linspace rounds some halves differently.
    """
    place, step = np.arange(count), end / max(count - 1, 1)
    return np.where(place < count // 2, place * step, end - (count - 1 - place) * step).round().astype(int)


def sample_ancestral(schedule: NoiseSchedule, predict: Predict, x: Tensor, noise: Callable[[], Tensor]) -> Tensor:
    """Sample x_0 by ancestral sampling from x at the schedule's last timestep. The sample is not clipped.

    Each step except the last calls `noise` for a new draw.
    """
    for index in reversed(range(len(schedule.timesteps))):
        _, eps, variance = predict(x, index)
        mean = schedule.inverse_signal_step[index] * (x - schedule.noise_step[index] * eps)
        if index == 0:
            return mean
        x = mean + (0.5 * schedule.log_variance(variance, index)).exp() * noise()


def sample_deterministic(schedule: NoiseSchedule, predict: Predict, x: Tensor) -> Tensor:
    """Follow the DDIM path (eta = 0; Song et al., 2021) from x at the schedule's last timestep to x_0.

    On the straight path these are Euler steps of its flow.
    """
    for index in reversed(range(len(schedule.timesteps))):
        x_start, eps, _ = predict(x, index)
        if index == 0:
            return x_start
        x = schedule.signal_scale[index - 1] * x_start + schedule.noise_scale[index - 1] * eps


def check_sampling(sampler: str, steps: int, num_samples: int, start: int) -> None:
    """Raise UserError for an unknown sampler, or for settings that it does not support."""
    if sampler not in SAMPLERS:
        raise InvalidSetting("sampler", sampler, f"choose one of {', '.join(SAMPLERS)}")
    if not 2 <= start < NUM_TIMESTEPS:
        raise InvalidSetting("sampling_start", start, f"choose a timestep from 2 to {NUM_TIMESTEPS - 1}")
    least = 1 if sampler == "deterministic" else 2
    most = start - 1 if sampler == "deterministic" else NUM_TIMESTEPS
    if not least <= steps <= most:
        raise InvalidSetting("sampling_steps", steps, f"the {sampler} sampler needs {least} to {most} steps; change it")
    if num_samples < 1:
        raise InvalidSetting("num_samples", num_samples, "must be at least 1")
    if sampler == "deterministic" and num_samples != 1:
        raise InvalidSetting(
            "num_samples",
            num_samples,
            "the deterministic sampler has one outcome; set it to 1, or choose `sampler` ancestral",
        )
