"""The diffusion, compared with recorded values of a trained head and with arithmetic written here."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.diffusion.samplers import sample_ancestral, sample_deterministic, spaced_timesteps, zero_path_timesteps
from gendd.diffusion.schedule import NoiseSchedule, discretized_gaussian_log_likelihood

WIDTH, TOKEN_DIM, TOKENS, COND_DIM = 32, 8, 4, 12


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    return load_file(Path(__file__).parents[2] / "data" / "head_small.safetensors")


@pytest.fixture(scope="module")
def head(recorded) -> SplitTokenHead:
    head = SplitTokenHead(TOKENS * TOKEN_DIM, COND_DIM, token_dim=TOKEN_DIM, width=WIDTH, **PAPER)
    prefix = "diffloss.net."
    head.net.load_state_dict({name.removeprefix(prefix): v for name, v in recorded.items() if name.startswith(prefix)})
    return head.requires_grad_(False)


def one_token(net, x, t, z, token):
    """Return the output (N, 2d) for x (N, d), t (N,) and z (N, D_s), where token (N,) selects the token of each row."""
    every = x[:, None].expand(-1, TOKENS, -1)
    return net(every, t[:, None], net.cond_embed(z)[:, None])[torch.arange(len(x)), token]


def test_schedule_equals_recorded_one_in_fp64(recorded):
    schedule = NoiseSchedule().exact
    for name in ("betas", "alphas_cumprod", "posterior_log_variance_clipped"):
        torch.testing.assert_close(schedule[name], recorded[f"schedule.{name}"], rtol=0, atol=1e-10)


def test_respaced_schedule_equals_recorded_one(recorded):
    schedule = NoiseSchedule(spaced_timesteps(10))
    assert schedule.timesteps == recorded["sample.timesteps"].tolist()
    for name in ("betas", "alphas_cumprod"):
        torch.testing.assert_close(schedule.exact[name], recorded[f"respaced.{name}"], rtol=0, atol=1e-10)


def test_schedule_equals_its_cosine_definition():
    def signal(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = NoiseSchedule().exact["betas"]
    for t in (0, 1, 499, 998, 999):
        assert betas[t].item() == pytest.approx(min(1 - signal((t + 1) / 1000) / signal(t / 1000), 0.999), abs=1e-12)


def test_network_and_losses_equal_recorded_values(recorded, head):
    t, schedule = recorded["case.t"], NoiseSchedule()
    x_t = schedule.add_noise(recorded["case.x_start"], recorded["case.noise"], t)
    torch.testing.assert_close(x_t, recorded["case.x_t"], rtol=1e-5, atol=1e-5)
    output = one_token(head.net, x_t, t, recorded["case.z"], recorded["case.token_index"])
    torch.testing.assert_close(output, recorded["case.model_output"], rtol=1e-5, atol=1e-5)
    mse, vb = schedule.loss_terms(output, recorded["case.x_start"], recorded["case.noise"], t)
    for name, value in (("mse", mse), ("vb", vb), ("loss", mse + vb)):
        torch.testing.assert_close(value, recorded[f"case.{name}"], rtol=1e-5, atol=1e-5)


def test_guided_ancestral_samples_equal_recorded_ones(recorded, head, monkeypatch):
    """Each row records one token; the other tokens, which the head samples too, start and stay without noise."""
    z, token = recorded["sample.z"], recorded["sample.token_index"]
    places, draws = torch.arange(len(z)), iter([recorded["sample.x_T"], *recorded["sample.noise"]])

    def drawn(size, **_):
        noise = torch.zeros(size)
        noise[places, 0, token] = next(draws)
        return noise

    monkeypatch.setattr(torch, "randn", drawn)
    sample = head.sample(z, "ancestral", 10, 1, guidance=2.0)[:, 0].unflatten(1, (TOKENS, TOKEN_DIM))
    expected = recorded["sample.x_0"]
    torch.testing.assert_close(sample[places, token], expected, rtol=1e-3, atol=1e-3 * expected.std().item())


def test_bound_is_kl_of_posterior_and_model():
    """Compare the short form (difference of means from the error) with the textbook's KL of posterior and model."""
    torch.manual_seed(0)
    schedule, t = NoiseSchedule(), torch.tensor([1, 17, 400, 900])
    x_start, noise = torch.randn(2, 4, 5, dtype=torch.float64)
    output = torch.randn(4, 10, dtype=torch.float64)
    _, vb = schedule.loss_terms(output, x_start.float(), noise.float(), t)

    exact = {name: values[t, None] for name, values in schedule.exact.items()}
    abar, beta = exact["alphas_cumprod"], exact["betas"]
    abar_previous = schedule.exact["alphas_cumprod"][t - 1, None]
    x_t = abar.sqrt() * x_start + (1 - abar).sqrt() * noise

    def posterior_mean(start):
        return (abar_previous.sqrt() * beta * start + (1 - beta).sqrt() * (1 - abar_previous) * x_t) / (1 - abar)

    eps, variance = output.chunk(2, dim=-1)
    predicted_start = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    true = torch.distributions.Normal(posterior_mean(x_start), (beta * (1 - abar_previous) / (1 - abar)).sqrt())
    share = (variance + 1) / 2
    log_variance = share * beta.log() + (1 - share) * true.variance.log()
    model = torch.distributions.Normal(posterior_mean(predicted_start), (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(true, model).mean(-1) / math.log(2)
    torch.testing.assert_close(vb.double(), kl, rtol=1e-4, atol=1e-5)


def test_bound_trains_the_variance_only():
    output = torch.randn(3, 8, requires_grad=True)
    _, vb = NoiseSchedule().loss_terms(output, torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 5, 999]))
    vb.sum().backward()
    assert output.grad[:, :4].abs().max() == 0
    assert (output.grad[:, 4:].abs().sum(-1) > 0).all()


def test_bin_likelihoods_sum_to_one():
    values = torch.arange(-255, 256, 2, dtype=torch.float64) / 255
    mean, log_scale = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64)
    total = discretized_gaussian_log_likelihood(values, mean, log_scale).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


def test_sampler_timesteps():
    assert spaced_timesteps(100)[[0, 1, -1]].tolist() == [0, 10, 999]
    assert len(set(spaced_timesteps(64).tolist())) == 64
    for steps in (27, 105):  # np.linspace rounds some of their halves the other way.
        expected = torch.linspace(0, 999, steps, dtype=torch.float64).round().int()
        assert spaced_timesteps(steps).tolist() == expected.tolist()
    assert zero_path_timesteps(950, 1).tolist() == [950]
    assert zero_path_timesteps(900, 2).tolist() == [600, 900]
    assert zero_path_timesteps(5, 4).tolist() == [2, 3, 4, 5]


def gaussian_predictor(schedule: NoiseSchedule, mean: float, std: float):
    """Return the optimal noise prediction for data N(mean, std^2), with which samplers must return such data."""

    def predict(x, index):
        abar = schedule.exact["alphas_cumprod"][index].float()
        eps = (1 - abar).sqrt() * (x - abar.sqrt() * mean) / (abar * std**2 + 1 - abar)
        return (x - (1 - abar).sqrt() * eps) / abar.sqrt(), eps, torch.zeros_like(x)

    return predict


@pytest.mark.parametrize("sampler", ["ancestral", "deterministic"])
def test_samplers_draw_from_the_data_distribution(sampler):
    generator = torch.Generator().manual_seed(0)
    schedule = NoiseSchedule(spaced_timesteps(250))
    x = torch.randn(20000, 1, generator=generator)
    predict = gaussian_predictor(schedule, mean=2.0, std=0.5)
    if sampler == "ancestral":
        sample = sample_ancestral(schedule, predict, x, lambda: torch.randn(x.shape, generator=generator))
    else:
        sample = sample_deterministic(schedule, predict, x)
    assert sample.mean().item() == pytest.approx(2.0, abs=0.03)
    assert sample.std().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("steps", [1, 4])
def test_path_from_zero_ends_at_the_mean(steps):
    schedule = NoiseSchedule(zero_path_timesteps(950, steps))
    sample = sample_deterministic(schedule, gaussian_predictor(schedule, mean=2.0, std=0.1), torch.zeros(1, 1))
    assert sample.item() == pytest.approx(2.0, abs=0.05)
