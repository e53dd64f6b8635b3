"""The head: its loss against a plain one written here, its draws, its samplers."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from gendd import head as head_module
from gendd.denoiser import CONDITIONINGS
from gendd.diffusion import NoiseSchedule, timestep_density
from gendd.errors import UserError
from gendd.head import TIMESTEP_SCHEMES, Draws, SplitTokenHead

B, M, K, D, COND = 5, 3, 4, 8, 12


@pytest.fixture(params=CONDITIONINGS)
def head(request) -> SplitTokenHead:
    torch.manual_seed(0)
    head = SplitTokenHead(M * D, COND, D, width=32, repeats=K, conditioning=request.param)
    for parameter in head.parameters():  # The zero initialisation would hide mistakes.
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return head


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, COND, generator=generator), torch.randn(B, M * D, generator=generator)


def plain_output(net, x, t, z, m) -> torch.Tensor:
    """The network for one token (d), all projections of its conditioning written out."""
    time, condition, position = net.time_embed(t), net.cond_embed(z), net.pos_embed.weight[m]
    x = net.input_proj(x)
    for layer in net.layers:
        adaln = layer.adaLN_modulation
        if net.conditioning == "joint":
            modulation = adaln[1](F.silu(time + condition + position))
        else:
            modulation = (
                adaln.time(F.silu(time)) + adaln.condition(F.silu(condition)) + adaln.position(F.silu(position))
            )
        if layer is net.final_layer:
            shift, scale = modulation.chunk(2)
            return layer.linear(layer.norm_final(x) * (1 + scale) + shift)
        shift, scale, gate = modulation.chunk(3)
        x = x + gate * layer.mlp(layer.in_ln(x) * (1 + scale) + shift)


def plain_loss(head: SplitTokenHead, z, target, draws: Draws) -> torch.Tensor:
    """One token and repeat at a time, everything computed anew: the definition."""
    net, total = head.net, 0.0
    images, _, repeats = draws.t.shape
    weight = torch.ones(draws.t.shape) if draws.weight is None else draws.weight
    for b in range(images):
        for m in range(M):
            x_start = target[b, m * D : (m + 1) * D]
            for k in range(repeats):
                t, noise = draws.t[b, m, k], draws.noise[b, m, k]
                condition = torch.zeros_like(z[b]) if draws.dropped[b, m, k] else z[b]
                x_t = head.schedule.add_noise(x_start[None], noise[None], t[None])[0]
                output = plain_output(net, x_t, t, condition, m)
                mse, vb = head.schedule.loss_terms(output[None], x_start[None], noise[None], t[None])
                total = total + weight[b, m, k] * (mse[0] + vb[0])
    return total / draws.t.numel()


@pytest.mark.parametrize("timesteps", ["independent", "paired"])
def test_loss_and_gradients_are_those_of_the_plain_definition(head, batch, timesteps):
    z, target = batch
    z.requires_grad_()
    head.timesteps = timesteps
    draws = head.draw(B, torch.Generator().manual_seed(2))
    assert draws.dropped.any() and not draws.dropped.all()
    inputs = [z, *head.parameters()]
    ours = torch.autograd.grad(head(z, target, draws)["loss"], inputs)
    plain = torch.autograd.grad(plain_loss(head, z, target, draws), inputs)
    torch.testing.assert_close(head(z, target, draws)["loss"], plain_loss(head, z, target, draws))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
def test_parts_of_the_repeats_and_the_time_table_change_no_gradient(head, batch, monkeypatch, precision, tolerance):
    """More tokens x repeats than timesteps: in parts, against one part in fp32, each timestep embedded for itself."""
    z, target = batch
    z.requires_grad_()
    head.repeats = 80
    draws, results = head.draw(B, torch.Generator().manual_seed(2)), []
    for timesteps, rows, used in ((1000, 400, precision), (10**6, 10**6, torch.float32)):
        monkeypatch.setattr(head_module, "NUM_TIMESTEPS", timesteps)
        monkeypatch.setattr(head_module, "ROWS_AT_ONCE", rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=used == torch.bfloat16):
            loss = head(z, target, draws)["loss"]
        # Scaled, as accumulation over parts of a batch scales it.
        results.append([loss.detach(), *torch.autograd.grad(loss / 4, [z, *head.parameters()])])
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_a_loss_in_parts_holds_the_activations_of_one(head, batch, monkeypatch):
    z, target = batch
    head.repeats, rows = 80, []
    head.net.input_proj.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][..., 0].numel()))
    monkeypatch.setattr(head_module, "ROWS_AT_ONCE", 400)
    head(z, target, head.draw(B))
    assert sum(rows) == B * M * 80 and max(rows) <= 400


def test_recomputed_blocks_change_no_result(head, batch):
    z, target = batch
    draws = head.draw(B, torch.Generator().manual_seed(2))
    results, kept = [], []
    for recompute in (False, True):
        head.set_grad_checkpointing(recompute)
        tensors = {}

        def keep(tensor, tensors=tensors):
            tensors[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = head(z, target, draws)["loss"]
        head.zero_grad()
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in head.parameters())])
        kept.append(sum(tensors.values()))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert kept[1] < 0.8 * kept[0]


def test_loss_parts_add_up(head, batch):
    parts = head(*batch)
    torch.testing.assert_close(parts["loss"].detach(), parts["mse"] + parts["vb"])


def test_diffusion_is_fp32_under_autocast(head, batch):
    draws = head.draw(B, torch.Generator().manual_seed(2))
    full = head(*batch, draws)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = head(*batch, draws)["loss"]
        sample = head.sample(batch[0], steps=2)
    assert half.dtype == sample.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02)


def test_fresh_head_predicts_no_noise(batch):
    """The output layer starts at zero: the mse is the noise's own variance."""
    torch.manual_seed(0)
    head = SplitTokenHead(M * D, COND, D, width=32, repeats=200)
    assert head(*batch)["mse"].item() == pytest.approx(1.0, abs=0.05)


def test_stratified_draws_cover_the_timesteps_and_pair_the_noise():
    head = SplitTokenHead(M * D, COND, D, width=8, repeats=10, timesteps="stratified")
    draws = head.draw(7, torch.Generator().manual_seed(0))
    assert (draws.t // 100 == torch.arange(10)).all()
    torch.testing.assert_close(draws.noise[:, :, 0::2], -draws.noise[:, :, 1::2], rtol=0, atol=0)


def test_odd_repeats_leave_one_without_a_partner():
    head = SplitTokenHead(M * D, COND, D, width=8, repeats=3, timesteps="stratified")
    noise = head.draw(2, torch.Generator().manual_seed(0)).noise
    torch.testing.assert_close(noise[:, :, 0], -noise[:, :, 1], rtol=0, atol=0)
    assert (noise[:, :, 2] != -noise[:, :, 1]).all()


def test_all_timestep_schemes_have_one_expectation(head, batch):
    """Means of many losses agree within their standard errors."""
    z, target = batch
    losses = {}
    for scheme in TIMESTEP_SCHEMES:
        head.timesteps, generator = scheme, torch.Generator().manual_seed(3)
        with torch.no_grad():
            losses[scheme] = torch.stack([head(z, target, head.draw(B, generator))["loss"] for _ in range(600)])
    for one, other in itertools.combinations(losses.values(), 2):
        assert abs(one.mean() - other.mean()) < 4 * (one.var() / 600 + other.var() / 600).sqrt()


@pytest.mark.parametrize("repeats, given", [(4, 2), (6, 4), (10, 8), (20, 16)])
def test_paired_draws_share_a_timestep_and_opposite_noise(repeats, given):
    head = SplitTokenHead(M * D, COND, D, width=8, repeats=repeats, timesteps="paired")
    draws = head.draw(50, torch.Generator().manual_seed(0))
    assert draws.t.shape == draws.dropped.shape == draws.weight.shape == (50, M, repeats)
    assert (draws.dropped == (torch.arange(repeats) >= given)).all()
    assert torch.equal(draws.noise[:, :, 0::2], -draws.noise[:, :, 1::2])
    for values in (draws.t, draws.weight):
        assert torch.equal(values[:, :, 0::2], values[:, :, 1::2])


def test_what_a_pair_shares_is_projected_once(head, batch):
    """In parts and in one: as many rows of conditioning as pairs, twice as many of tokens."""
    head.timesteps, head.repeats = "paired", 160
    tokens, conditions = [], []
    head.net.input_proj.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0][..., 0].numel()))
    head.net.res_blocks[0].register_forward_pre_hook(lambda _, inputs: conditions.append(inputs[1][..., 0].numel()))
    head(*batch)
    assert sum(tokens) == B * M * 160 and sum(conditions) == B * M * 80


@pytest.mark.parametrize("repeats", [4, 6, 8])
def test_weighted_paired_draws_are_uniform_in_time_and_drop_as_often_as_asked(repeats):
    """Sums of the weights over fifths of the timesteps, with the condition and without."""
    head = SplitTokenHead(D, COND, D, width=8, repeats=repeats, timesteps="paired")
    draws = head.draw(40000, torch.Generator().manual_seed(0))
    for dropped, share in ((False, 0.8), (True, 0.2)):
        weight = torch.where(draws.dropped == dropped, draws.weight, 0.0).flatten().double()
        sums = torch.zeros(5, dtype=torch.float64).index_add_(0, draws.t.flatten() // 200, weight) / draws.t.numel()
        torch.testing.assert_close(sums, torch.full_like(sums, share / 5), rtol=0.05, atol=0)


def test_timestep_density_is_one_and_nowhere_below_a_fifth():
    density = timestep_density()
    assert density.sum().item() == pytest.approx(1) and density.min() >= 0.2 / 1000 and (density.diff() < 0).all()


@pytest.mark.parametrize("repeats, remedy", [(1, 4), (2, 4), (7, 8)])
def test_paired_draws_that_find_no_partner_are_refused(repeats, remedy):
    with pytest.raises(UserError, match=f"--repeats {repeats}: --timesteps paired .* set it to {remedy}"):
        SplitTokenHead(M * D, COND, D, width=8, repeats=repeats, timesteps="paired")


def test_every_timestep_is_as_likely_in_both_schemes():
    for scheme in ("independent", "stratified"):
        head = SplitTokenHead(D, COND, D, width=8, repeats=7, timesteps=scheme)
        t = head.draw(30000, torch.Generator().manual_seed(0)).t
        counts = torch.bincount(t.flatten(), minlength=1000).float()
        assert len(counts) == 1000
        assert (counts / counts.mean() - 1).abs().max() < 0.4


def test_sample_shapes_and_reproducible_noise(head, batch):
    z, _ = batch
    for sampler, steps, samples in (("ancestral", 5, 3), ("ddim", 5, 3), ("deterministic", 2, 1)):
        settings = {"sampler": sampler, "steps": steps, "num_samples": samples}
        one, again = (head.sample(z, **settings, generator=torch.Generator().manual_seed(4)) for _ in range(2))
        assert one.shape == (B, samples, M * D)
        torch.testing.assert_close(one, again, rtol=0, atol=0)
    other = head.sample(z, "ancestral", 5, 3, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(other, head.sample(z, "ancestral", 5, 3, generator=torch.Generator().manual_seed(4)))


def test_sampling_an_image_does_not_depend_on_the_others(head, batch):
    z, _ = batch
    torch.testing.assert_close(head.sample(z)[2:3], head.sample(z[2:3]), rtol=1e-4, atol=1e-4)


def test_guidance_extrapolates_from_the_unconditional_prediction(head, batch):
    """One step from zero is linear in eps, so guidance 2 is twice guidance 1 minus the zero condition's outcome."""
    z, _ = batch
    guided, conditional = (head.sample(z, steps=1, guidance=g) for g in (2.0, 1.0))
    unconditional = head.sample(torch.zeros_like(z), steps=1, guidance=1.0)
    torch.testing.assert_close(guided, 2 * conditional - unconditional, rtol=1e-4, atol=1e-4)


def test_one_deterministic_step_is_its_closed_form(head, batch):
    z, _ = batch
    t, abar = torch.tensor(950), NoiseSchedule().exact["alphas_cumprod"][950].float()
    output = torch.stack(
        [torch.stack([plain_output(head.net, torch.zeros(D), t, z[b], m) for m in range(M)]) for b in range(B)]
    )
    expected = -((1 - abar) / abar).sqrt() * output[..., :D]
    sample = head.sample(z, steps=1, start=950, guidance=1.0)
    torch.testing.assert_close(sample[:, 0], expected.flatten(1), rtol=1e-4, atol=1e-4)


def test_token_width_that_does_not_divide_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"--token-dim 48 .* 64; nearest that do: 32 and 64"):
        SplitTokenHead(64, COND, token_dim=48)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"sampler": "euler"}, "--sampler euler"),
        ({"sampler": "ancestral", "steps": 1}, "--steps 1"),
        ({"steps": 0}, "--steps 0"),
        ({"num_samples": 5}, "--num-samples 5"),
        ({"start": 1000}, "--start 1000"),
    ],
)
def test_sampling_that_cannot_work_is_refused(head, batch, settings, word):
    with pytest.raises(UserError, match=word):
        head.sample(batch[0], **settings)
