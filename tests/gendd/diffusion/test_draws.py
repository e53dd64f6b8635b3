"""Timesteps, noises and zero conditions that the head's loss draws."""

import itertools

import pytest
import torch
from lines import refuses

from gendd.diffusion.draws import Drawing, Draws
from gendd.diffusion.objective import Objective

SCHEMES = ("independent", "shared", "antithetic")
M, D, CPU = 3, 8, torch.device("cpu")


def drawn(scheme: str, repeats: int, images: int, objective: Objective | None = None, dropout: float = 0.2) -> Draws:
    objective = objective or Objective()
    drawing = Drawing(scheme, repeats, objective.timestep_density(), objective.proposal(), dropout)
    return drawing(images, M, D, torch.Generator().manual_seed(0), CPU)


def weighted(draws: Draws) -> torch.Tensor:
    return draws.weight.expand(draws.noise.shape[:-1])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("density", ["uniform", "high-noise", "logit-normal"])
@pytest.mark.parametrize("prediction", ["noise", "feature"])
def test_scheme_draws_its_density_and_dropout_rate(scheme, density, prediction):
    """Compare sums of weights over tenths of the timesteps, with and without the condition."""
    objective = Objective(prediction, density)
    # Images share few timesteps, so each image needs many draws.
    draws = drawn(scheme, *((16000, 10) if scheme == "shared" else (8, 20000)), objective)
    timesteps = draws.t.expand(draws.noise.shape[:-1])
    expected = objective.timestep_density().view(10, 100).sum(-1)
    for dropped, share in ((False, 0.8), (True, 0.2)):
        weight = torch.where(draws.dropped == dropped, weighted(draws), 0.0).flatten().double()
        sums = torch.zeros(10, dtype=torch.float64).index_add_(0, timesteps.flatten() // 100, weight)
        sums /= timesteps.numel()
        torch.testing.assert_close(sums, share * expected, rtol=0.07, atol=1e-4)


@pytest.mark.parametrize("repeats, given", [(4, 2), (6, 4), (10, 8), (20, 16)])
def test_antithetic_draws_share_timestep_and_negate_noise(repeats, given):
    draws = drawn("antithetic", repeats, 50)
    assert draws.t.shape == draws.dropped.shape == draws.weight.shape == (50, M, repeats // 2, 1)
    assert draws.noise.shape == (50, M, repeats // 2, 2, D)
    assert (draws.dropped[..., 0] == (torch.arange(0, repeats, 2) >= given)).all()
    assert torch.equal(draws.noise[..., 0, :], -draws.noise[..., 1, :])


def test_shared_timesteps_are_stratified_over_the_density():
    """All images and tokens share them. With 1000 timesteps and uniform density, each eighth gets one."""
    draws = drawn("shared", 8, 20, Objective("feature"))
    assert draws.t.shape == (1, 1, 8, 1) and draws.noise.shape == (20, M, 8, 1, D)
    assert (draws.t.flatten() // 125).tolist() == list(range(8))
    assert draws.images(slice(4, 7)).t is draws.t and len(draws.images(slice(4, 7)).noise) == 3


def test_process_keeps_its_rows_of_all_draws():
    draws = drawn("antithetic", 4, 10)
    rows = draws.images(slice(4, 7))
    assert torch.equal(rows.noise, draws.noise[4:7]) and torch.equal(rows.weight, draws.weight[4:7])


@pytest.mark.parametrize("repeats, remedy", [(1, 4), (2, 4), (7, 8)])
def test_antithetic_scheme_refuses_draws_without_partner(repeats, remedy):
    with refuses(f"--repeats {repeats}: --draw-scheme antithetic .* set it to {remedy}"):
        drawn("antithetic", repeats, 1)


def test_one_antithetic_pair_is_enough_without_dropout():
    draws = drawn("antithetic", 2, 5, dropout=0)
    assert not draws.dropped.any() and drawn("shared", 1, 100, dropout=0).dropped is None


def test_all_draw_schemes_estimate_the_same_integral():
    """Integrate a function of timestep, noise and condition: means agree within their standard errors."""
    estimates = {}
    for scheme in SCHEMES:
        draws = drawn(scheme, *((400, 300) if scheme == "shared" else (4, 30000)))
        values = (draws.t / 1000) ** 2 * draws.noise[..., 0].square() + draws.dropped.float()
        estimates[scheme] = (weighted(draws) * values).flatten(1).mean(1)
    for one, other in itertools.combinations(estimates.values(), 2):
        assert abs(one.mean() - other.mean()) < 4 * ((one.var() + other.var()) / len(one)).sqrt()
