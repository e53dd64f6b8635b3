"""The head: its draws, its samplers, and its loss compared with a plain implementation."""

import pytest
import torch
import torch.nn.functional as F
from lines import refuses
from torch import nn

from gendd.core.errors import InvalidSetting
from gendd.diffusion import denoiser, samplers
from gendd.diffusion import head as head_module
from gendd.diffusion.draws import Draws
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.diffusion.schedule import NoiseSchedule

B, M, K, D, COND = 5, 3, 4, 8, 12
KINDS = {
    "paper": {},
    "feature": {"prediction": "feature", "trunk_depth": 2, "timestep_density": "high-noise"},
    "flow": {"prediction": "velocity", "noise_path": "straight", "loss_weighting": "min-snr"},
}


def fresh(kind: str = "paper", repeats: int = K, **settings) -> SplitTokenHead:
    torch.manual_seed(0)
    return SplitTokenHead(M * D, COND, token_dim=D, width=32, repeats=repeats, **PAPER | KINDS[kind] | settings)


def moved(head: SplitTokenHead) -> SplitTokenHead:
    """Replace the weights, because the zero initialization would hide mistakes."""
    for parameter in head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return head


@pytest.fixture(params=KINDS)
def head(request) -> SplitTokenHead:
    return moved(fresh(request.param))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, COND, generator=generator), torch.randn(B, M * D, generator=generator)


def plain_output(net, x, t, z, m) -> torch.Tensor:
    """Run the network for one token (d), with all projections of its conditioning written out."""
    u = net.time_embed(t) + net.pos_embed.weight[m]
    x = net.input_proj(x)
    if isinstance(net.cond_embed, nn.Linear):
        u = u + net.cond_embed(z)
    else:
        first, *blocks, norm, last = net.cond_embed
        c = first(z)
        for block in blocks:
            c = c + block[3](F.silu(block[1](block[0](c))))
        x = x + last(norm(c))
    for block in net.res_blocks:
        shift, scale, gate = block.adaLN_modulation[1](F.silu(u)).chunk(3)
        x = x + gate * block.mlp(block.in_ln(x) * (1 + scale) + shift)
    final = net.final_layer
    shift, scale = final.adaLN_modulation[1](F.silu(u)).chunk(2)
    return final.linear(final.norm_final(x) * (1 + scale) + shift)


def plain_loss(head: SplitTokenHead, z, target, draws: Draws) -> torch.Tensor:
    """Compute the loss by its definition: one token and one draw at a time, without sharing."""
    net, total = head.net, 0.0
    noises = draws.noise.flatten(2, 3)
    images, _, repeats = noises.shape[:3]
    timesteps, weight = (values.expand(draws.noise.shape[:-1]).flatten(2, 3) for values in (draws.t, draws.weight))
    dropped = None if draws.dropped is None else draws.dropped.expand(draws.noise.shape[:-1]).flatten(2, 3)
    for b in range(images):
        for m in range(M):
            x_start = target[b, m * D : (m + 1) * D]
            for k in range(repeats):
                t, noise = timesteps[b, m, k], noises[b, m, k]
                condition = torch.zeros(COND) if dropped is not None and dropped[b, m, k] else z[b]
                a, n = head.objective.schedule.signal_scale[t], head.objective.schedule.noise_scale[t]
                output = plain_output(net, a * x_start + n * noise, t, condition, m)
                if head.objective.prediction == "noise":
                    terms = head.objective.schedule.loss_terms(output[None], x_start[None], noise[None], t[None])
                    loss = terms[0][0] + terms[1][0]
                elif head.objective.prediction == "feature":
                    loss = (output - x_start).square().mean()
                else:  # Velocity on the straight path, with min-SNR weights up to 5.
                    loss = (output - (noise - x_start)).square().mean() * n**2 * ((a / n) ** 2).clamp(max=5)
                total = total + weight[b, m, k] * loss
    return total / timesteps.numel()


@pytest.mark.parametrize("dropout", [0.2, 0.0])
@pytest.mark.parametrize("scheme", ["independent", "shared", "antithetic"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_plain_implementation(batch, kind, scheme, dropout):
    z, target = batch
    z.requires_grad_()
    head = moved(fresh(kind, draw_scheme=scheme, condition_dropout=dropout))
    draws = head.draw(B, torch.Generator().manual_seed(2))
    assert not dropout or draws.dropped.any() and not draws.dropped.all()
    inputs = [z, *head.parameters()]
    ours = torch.autograd.grad(head(z, target, draws)["loss"], inputs)
    plain = torch.autograd.grad(plain_loss(head, z, target, draws), inputs)
    torch.testing.assert_close(head(z, target, draws)["loss"], plain_loss(head, z, target, draws))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
def test_head_in_slices_or_with_time_table_keeps_gradients(head, batch, monkeypatch, precision, tolerance):
    """The head has more tokens x repeats than timesteps; the fp32 reference runs in one part without a time table."""
    z, target = batch
    z.requires_grad_()
    head.drawing.repeats = 80
    draws, results = head.draw(B, torch.Generator().manual_seed(2)), []
    for timesteps, rows, used in ((1000, 400, precision), (10**6, 10**6, torch.float32)):
        monkeypatch.setattr(denoiser, "NUM_TIMESTEPS", timesteps)
        monkeypatch.setattr(head_module, "ROWS_AT_ONCE", rows)
        with torch.autocast("cpu", torch.bfloat16, enabled=used == torch.bfloat16):
            loss = head(z, target, draws)["loss"]
        # Gradient accumulation scales the loss in this way.
        results.append([loss.detach(), *torch.autograd.grad(loss / 4, [z, *head.parameters()])])
    for one, other in zip(*results, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


def test_loss_in_parts_keeps_activations_of_one_part(head, batch, monkeypatch):
    z, target = batch
    head.drawing.repeats, rows = 80, []
    head.net.input_proj.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][..., 0].numel()))
    monkeypatch.setattr(head_module, "ROWS_AT_ONCE", 400)
    head(z, target, head.draw(B))
    assert sum(rows) == B * M * 80 and max(rows) <= 400


def test_gradient_checkpointing_changes_no_head_result(head, batch):
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
    torch.testing.assert_close(parts["loss"].detach(), parts["mse"] + parts.get("vb", 0))
    assert ("vb" in parts) == (head.objective.prediction == "noise")


def test_diffusion_stays_in_fp32_under_autocast(head, batch):
    draws = head.draw(B, torch.Generator().manual_seed(2))
    full = head(*batch, draws)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = head(*batch, draws)["loss"]
        sample = head.sample(batch[0], steps=2, start=800)
    assert half.dtype == sample.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02)


def test_fresh_head_predicts_zero(batch):
    """The output layer starts at zero, so the MSE is the variance of the noise, or the mean square of the features."""
    assert fresh(repeats=200)(*batch)["mse"].item() == pytest.approx(1.0, abs=0.05)
    assert fresh("feature")(*batch)["mse"].item() == pytest.approx(batch[1].square().mean().item(), rel=1e-5)


def test_trunk_gradient_reaches_backbone_after_one_step(batch):
    """Through AdaLN alone it takes two steps: its projections and the output layer start at zero."""
    z, target = batch
    z.requires_grad_()
    reached = {}
    for trunk in (0, 1):
        head = fresh("feature", trunk_depth=trunk)
        optimizer = torch.optim.SGD(head.parameters(), 0.1)
        gradients = []
        for _ in range(2):
            z.grad = None
            optimizer.zero_grad()
            head(z, target, head.draw(B, torch.Generator().manual_seed(2)))["loss"].backward()
            gradients.append(z.grad.abs().sum().item())
            optimizer.step()
        reached[trunk] = [value > 0 for value in gradients]
    assert reached == {0: [False, False], 1: [False, True]}


def test_antithetic_pair_projects_its_condition_once(head, batch):
    """In one part or several, a pair has one row of conditioning and two rows of tokens."""
    head.drawing.scheme, head.drawing.repeats = "antithetic", 160
    tokens, conditions = [], []
    head.net.input_proj.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0][..., 0].numel()))
    head.net.res_blocks[0].register_forward_pre_hook(lambda _, inputs: conditions.append(inputs[1][..., 0].numel()))
    head(*batch)
    assert sum(tokens) == B * M * 160 and sum(conditions) == B * M * 80


@pytest.mark.parametrize("kind", ["paper", "feature"])
def test_ancestral_samples_follow_the_seed(batch, kind):
    head = moved(fresh(kind))
    one, again, other = (
        head.sample(batch[0], "ancestral", 5, 3, generator=torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)
    )
    assert one.shape == (B, 3, M * D)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_deterministic_sampling_ignores_the_seed(head, batch):
    one, again = (head.sample(batch[0], steps=2, start=800) for _ in range(2))
    assert one.shape == (B, 1, M * D) and torch.equal(one, again)


def test_sample_of_an_image_does_not_depend_on_others(head, batch):
    z, _ = batch
    ours, alone = head.sample(z, start=800), head.sample(z[2:3], start=800)
    torch.testing.assert_close(ours[2:3], alone, rtol=1e-4, atol=1e-4)


def test_guidance_extrapolates_from_unconditional_sample(head, batch):
    """One step from zero is linear in the prediction, so guidance 2 gives 2 x guidance 1 minus unconditional."""
    z, _ = batch
    guided, conditional = (head.sample(z, guidance=g, start=800) for g in (2.0, 1.0))
    unconditional = head.sample(torch.zeros_like(z), start=800)
    torch.testing.assert_close(guided, 2 * conditional - unconditional, rtol=1e-4, atol=1e-4)


def test_guidance_changes_the_noise_and_not_its_variance(batch, monkeypatch):
    """Look at the third of five steps: the end of an untrained head's samples is too large to show the variance."""
    head, z, seen = moved(fresh()), batch[0], []

    def stop(schedule, predict, x, noise):
        seen.extend((x, schedule.timesteps[2], predict(x, 2)))
        return x

    monkeypatch.setattr(samplers, "sample_ancestral", stop)
    head.sample(z, "ancestral", 5, 3, guidance=2.0)
    x, t, (_, eps, variance) = seen
    conditional, unconditional = (
        head.net(x, torch.tensor(t), head.net.cond_embed(given[:, None, None])) for given in (z, torch.zeros_like(z))
    )
    torch.testing.assert_close(eps, (2 * conditional - unconditional)[..., :D])
    torch.testing.assert_close(variance, conditional[..., D:])
    assert not torch.allclose(variance, unconditional[..., D:])


def test_one_step_from_zero_has_its_closed_form(head, batch):
    z, _ = batch
    t, abar = torch.tensor(950), NoiseSchedule().exact["alphas_cumprod"][950].float()
    output = torch.stack(
        [torch.stack([plain_output(head.net, torch.zeros(D), t, z[b], m) for m in range(M)]) for b in range(B)]
    )
    # x = 0: the noise means - b / a n, the straight path's velocity - b v; b = 951 / 1000 there.
    factor = {"noise": -((1 - abar) / abar).sqrt(), "feature": 1.0, "velocity": -0.951}[head.objective.prediction]
    sample = head.sample(z, start=950)
    torch.testing.assert_close(sample[:, 0], (factor * output[..., :D]).flatten(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kind, settings, words",
    [
        ("paper", {"start": 999}, "--sampling-start 999: .* at most 990"),
        ("flow", {"sampler": "ancestral", "steps": 5}, "--sampler ancestral: does not work with --noise-path straight"),
    ],
)
def test_sampling_refuses_settings_that_objective_forbids(batch, kind, settings, words):
    with refuses(words):
        fresh(kind).sample(batch[0], **settings)


class Sampling(torch.nn.Module):
    """Deterministic sampling of a head, as a module."""

    def __init__(self, head: SplitTokenHead, **settings):
        super().__init__()
        self.head, self.settings = head, settings

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.head.sample(z, **self.settings)


@pytest.mark.parametrize("settings", [{"steps": 1}, {"steps": 3, "guidance": 2.0}])
def test_sampling_exports_for_any_number_of_images(head, batch, settings):
    sampling, dynamic = Sampling(head, start=800, **settings).eval(), ({0: torch.export.Dim("batch")},)
    program = torch.export.export(sampling, (batch[0],), dynamic_shapes=dynamic)
    for count in (1, 7):
        z = torch.randn(count, COND)
        torch.testing.assert_close(program.module()(z), sampling(z), rtol=1e-5, atol=1e-5)
    # The noise schedule consists of constants; other runtimes do not know its operations in float64.
    kinds = {getattr(node.meta.get("val"), "dtype", None) for node in program.graph.nodes}
    assert torch.float32 in kinds and torch.float64 not in kinds


def test_token_dim_not_dividing_names_the_nearest():
    with refuses(r"--token-dim 48: .* 64; choose a divisor such as 32 or 64"):
        SplitTokenHead(64, COND, token_dim=48)


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("prediction", "featur", "choose one of noise, velocity, feature"),
        ("timestep_density", "high", "choose one of uniform, high-noise, logit-normal"),
        ("loss_weighting", "snr", "choose one of none, feature, min-snr"),
        ("noise_path", "linear", "choose one of cosine, straight"),
        ("draw_scheme", "pairs", "choose one of independent, shared, antithetic"),
        ("depth", 0, "must be at least 1"),
        ("width", 16.0, "is not of type int"),
        ("repeats", 0, "must be at least 1"),
        ("condition_dropout", 2, "must be from 0 to 1"),
    ],
)
def test_head_refuses_values_that_it_does_not_know(option, value, reason):
    with pytest.raises(InvalidSetting, match=f"`{option}` {value!r}: {reason}"):
        SplitTokenHead(64, COND, **{option: value})


def test_head_names_an_unknown_option():
    with pytest.raises(TypeError, match="unexpected keyword argument 'heads'"):
        SplitTokenHead(64, COND, heads=2)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"sampler": "euler"}, "--sampler euler"),
        ({"sampler": "ancestral", "steps": 1}, "--sampling-steps 1"),
        ({"steps": 0}, "--sampling-steps 0"),
        ({"num_samples": 5}, "--num-samples 5"),
        ({"start": 1000}, "--sampling-start 1000"),
    ],
)
def test_sampling_refuses_invalid_settings(head, batch, settings, word):
    with refuses(word):
        head.sample(batch[0], **settings)
