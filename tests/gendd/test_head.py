"""The head: its loss against a plain one written here, its draws, its samplers."""

import pytest
import torch

from gendd.diffusion import NoiseSchedule
from gendd.errors import UserError
from gendd.head import Draws, SplitTokenHead, TimeEmbedding

B, M, K, D, COND = 5, 3, 4, 8, 12


@pytest.fixture
def head() -> SplitTokenHead:
    torch.manual_seed(0)
    head = SplitTokenHead(M * D, COND, D, width=32, repeats=K)
    for parameter in head.parameters():  # The zero initialisation would hide mistakes.
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return head


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, COND, generator=generator), torch.randn(B, M * D, generator=generator)


def plain_loss(head: SplitTokenHead, z, target, draws: Draws) -> torch.Tensor:
    """One token and repeat at a time, everything computed anew: the definition."""
    net, total = head.net, 0.0
    for b in range(B):
        for m in range(M):
            x_start = target[b, m * D : (m + 1) * D]
            for k in range(K):
                t, noise = draws.t[b, m, k], draws.noise[b, m, k]
                condition = torch.zeros_like(z[b]) if draws.dropped[b, m, k] else z[b]
                x_t = head.schedule.add_noise(x_start[None], noise[None], t[None])[0]
                u = net.time_embed(t[None])[0] + net.cond_embed(condition) + net.pos_embed.weight[m]
                mse, vb = head.schedule.loss_terms(net(x_t, u)[None], x_start[None], noise[None], t[None])
                total = total + mse[0] + vb[0]
    return total / (B * M * K)


def test_loss_and_gradients_are_those_of_the_plain_definition(head, batch):
    z, target = batch
    z.requires_grad_()
    draws = head.draw(B, torch.Generator().manual_seed(2))
    assert draws.dropped.any() and not draws.dropped.all()
    inputs = [z, *head.parameters()]
    ours = torch.autograd.grad(head(z, target, draws)["loss"], inputs)
    plain = torch.autograd.grad(plain_loss(head, z, target, draws), inputs)
    torch.testing.assert_close(head(z, target, draws)["loss"], plain_loss(head, z, target, draws))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


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
    assert kept[1] < 0.7 * kept[0]


def test_loss_parts_add_up(head, batch):
    parts = head(*batch)
    torch.testing.assert_close(parts["loss"].detach(), parts["mse"] + parts["vb"])


def test_time_table_gives_what_the_embedding_gives():
    torch.manual_seed(0)
    embedding, t = TimeEmbedding(16), torch.randint(1000, (1500,))
    torch.testing.assert_close(embedding.lookup(t), embedding(t))


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


def test_both_timestep_schemes_have_one_expectation(head, batch):
    """Means of many losses agree within their standard errors."""
    z, target = batch
    losses = {}
    for scheme in ("independent", "stratified"):
        head.timesteps, generator = scheme, torch.Generator().manual_seed(3)
        with torch.no_grad():
            losses[scheme] = torch.stack([head(z, target, head.draw(B, generator))["loss"] for _ in range(600)])
    means = [losses[scheme].mean() for scheme in losses]
    error = sum(losses[scheme].var() / 600 for scheme in losses).sqrt()
    assert abs(means[0] - means[1]) < 4 * error


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
    t, abar = 950, NoiseSchedule().exact["alphas_cumprod"][950].float()
    u = head.net.time_embed(torch.tensor(t)) + head.net.cond_embed(z)[:, None] + head.net.pos_embed.weight
    eps, _ = head.net(torch.zeros(B, M, D), u).chunk(2, dim=-1)
    expected = -((1 - abar) / abar).sqrt() * eps
    sample = head.sample(z, steps=1, start=t, guidance=1.0)
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
