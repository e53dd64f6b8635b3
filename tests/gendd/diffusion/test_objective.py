"""Prediction targets, weights and densities of the head, compared with their definitions."""

import itertools

import pytest
import torch
from lines import refuses

from gendd.diffusion.objective import Objective
from gendd.diffusion.samplers import sample_deterministic, zero_path_timesteps
from gendd.diffusion.schedule import NoiseSchedule

D = 4
ALL = [
    Objective(prediction, path=path)
    for prediction, path in itertools.product(("noise", "velocity", "feature"), ("cosine", "straight"))
    if (prediction, path) != ("noise", "straight")
]


def names(objective: Objective) -> str:
    return f"{objective.prediction}-{objective.path}"


@pytest.mark.parametrize("objective", ALL, ids=names)
def test_objective_recovers_feature_and_noise_from_target(objective):
    schedule = NoiseSchedule(path=objective.path)
    generator = torch.Generator().manual_seed(0)
    x_start, noise = torch.randn(2, 5, D, generator=generator)
    for t in (0, 500, 900):
        x_t = schedule.add_noise(x_start, noise, torch.full((5,), t))
        prediction = noise
        if objective.prediction != "noise":
            prediction = objective.target(x_start, noise, torch.full((5,), t))
        read = objective.denoised(schedule, prediction, x_t, t)
        torch.testing.assert_close(read, (x_start, noise), rtol=0, atol=1e-3)


def test_velocity_is_derivative_of_the_path():
    """Differentiate x_t by the angle on the cosine path, where a^2 + b^2 = 1, and by the time on the straight one."""
    x_start, noise = torch.randn(2, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for path in ("cosine", "straight"):
        exact = NoiseSchedule(path=path).exact
        a, b = exact["signal_scale"], exact["noise_scale"]
        place = torch.atan2(b, a) if path == "cosine" else b
        t = 400
        points = [a[i] * x_start + b[i] * noise for i in (t - 1, t + 1)]
        speed = (points[1] - points[0]) / (place[t + 1] - place[t - 1])
        target = Objective("velocity", path=path).target(x_start.float(), noise.float(), torch.tensor(t))
        torch.testing.assert_close(target, speed.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "objective, weight",
    # Noise prediction refuses weight "feature", which would be unbounded.
    [(o, weight) for o in ALL for weight in ("feature", "min-snr") if (o.prediction, weight) != ("noise", "feature")],
)
def test_weights_convert_errors_to_clean_feature_errors(objective, weight):
    """For each prediction, compare the weighted error with the error of the feature computed from that prediction."""
    schedule = NoiseSchedule(path=objective.path)
    weighted = Objective(objective.prediction, weight=weight, path=objective.path).error_weight
    for t in (100, 500, 800):
        x, prediction, error = torch.randn(3, D, generator=torch.Generator().manual_seed(t))
        means = [objective.denoised(schedule, values, x, t)[0] for values in (prediction, prediction + error)]
        clean = (means[1] - means[0]).square().mean()
        snr = (schedule.exact["signal_scale"][t] / schedule.exact["noise_scale"][t]).square()
        expected = clean * (1 if weight == "feature" else min(snr.item(), 5.0))
        assert (weighted[t] * error.square().mean()).item() == pytest.approx(expected.item(), rel=1e-3)


def test_default_weights_leave_prediction_errors_unscaled():
    assert all((objective.error_weight == 1).all() for objective in ALL)


@pytest.mark.parametrize(
    "density, share_below_half", [("uniform", 0.5), ("high-noise", 0.2 * 0.5 + 0.8 * 0.125), ("logit-normal", 0.5)]
)
def test_density_has_its_share_below_half(density, share_below_half):
    """The lower half holds an eighth of the t^2 density and half of the symmetric logit-normal one."""
    values = Objective("feature", density).timestep_density()
    assert values.sum().item() == pytest.approx(1) and (values > 0).all()
    assert values[:500].sum().item() == pytest.approx(share_below_half, abs=1e-3)
    if density == "logit-normal":  # P(|logit t| < 1) for a standard normal.
        time = (torch.arange(1000) + 0.5) / 1000
        assert values[time.logit().abs() < 1].sum().item() == pytest.approx(0.6827, abs=0.002)


def test_only_the_papers_proposal_differs_from_density():
    papers = Objective()
    assert (papers.proposal().diff() < 0).all() and papers.proposal().min() >= 0.2 / 1000
    for other in (
        Objective("feature"),
        Objective("velocity"),
        Objective(density="high-noise"),
        Objective(weight="min-snr"),
    ):
        assert torch.equal(other.proposal(), other.timestep_density())


@pytest.mark.parametrize("objective", [o for o in ALL if o.prediction != "noise"], ids=names)
@pytest.mark.parametrize("steps", [1, 4])
def test_path_from_pure_noise_ends_at_the_mean(objective, steps):
    """The prediction is optimal for features N(mean, std^2) and starts at the highest noise."""
    schedule = NoiseSchedule(zero_path_timesteps(999, steps), objective.path)
    mean, std = 2.0, 0.1

    def predict(x, index):
        a, b = schedule.signal_scale[index], schedule.noise_scale[index]
        x_start = mean + a * std**2 / (a**2 * std**2 + b**2) * (x - a * mean)
        noise = (x - a * x_start) / b
        prediction = x_start
        if objective.prediction == "velocity":
            prediction = noise - x_start if objective.path == "straight" else a * noise - b * x_start
        return *objective.denoised(schedule, prediction, x, index), None

    sample = sample_deterministic(schedule, predict, torch.zeros(1, 1))
    assert sample.item() == pytest.approx(mean, abs=0.05)


@pytest.mark.parametrize(
    "choices, words",
    [
        ({"path": "straight"}, "--noise-path straight: .* --prediction velocity or feature"),
        ({"weight": "feature"}, "--loss-weighting feature: .* --prediction velocity or feature"),
    ],
)
def test_noise_prediction_refuses_path_and_weight(choices, words):
    with refuses(words):
        Objective("noise", **choices)
