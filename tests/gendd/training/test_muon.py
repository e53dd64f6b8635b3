"""Muon in batches of one shape compared with timm's Muon, which updates the parameters one by one."""

import copy

import pytest
import timm.optim
import torch
from torch import nn

from gendd.training.muon import Muon, newton_schulz, orthogonalized

SETTINGS = {"lr": 0.02, "weight_decay": 0.3}


class Layers(nn.Module):
    """Matrices that are tall, wide and square, convolutions with several kernels, and vectors."""

    def __init__(self):
        super().__init__()
        sizes = (3, 8, 3), (8, 8, 3), (8, 8, 3), (8, 32, 1), (8, 6, 5)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, kernel, bias=False) for i, o, kernel in sizes)
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in ((4, 40), (40, 4), (16, 16), (16, 16)))
        self.norm = nn.LayerNorm(8)


def groups(layers: Layers) -> list[dict]:
    matrices = [p for p in layers.parameters() if p.dim() > 1]
    vectors = [p for p in layers.parameters() if p.dim() == 1]
    return [
        {"params": matrices[:-1], "use_fallback": False, **SETTINGS},
        {"params": vectors, "use_fallback": True, **SETTINGS, "weight_decay": 0.0},
        # A head, with another learning rate.
        {"params": matrices[-1:], "use_fallback": True, **SETTINGS, "lr": 3e-3},
    ]


def optimizer_of(layers: Layers, kind: type) -> torch.optim.Optimizer:
    options = {"nesterov": True} if kind is timm.optim.Muon else {}
    return kind(groups(layers), momentum=0.9, betas=(0.9, 0.95), **options)


def take(layers: Layers, optimizer: torch.optim.Optimizer, steps: range, without: int | None = None) -> None:
    """Take steps along random gradients, which follow from the step; rates and beta2 change as in a training."""
    for step in steps:
        noise = torch.Generator().manual_seed(step)
        for p in layers.parameters():
            p.grad = torch.zeros_like(p).copy_(torch.randn(p.shape, generator=noise))
        if step == without:
            layers.norm.weight.grad = layers.convolutions[1].weight.grad = None
        for group in optimizer.param_groups:
            group["betas"] = (0.9, 0.95 + step / 1000)
            group["lr"] *= 0.9
        optimizer.step()


def pair() -> list[Layers]:
    torch.manual_seed(0)
    layers = Layers().to(memory_format=torch.channels_last)
    return [layers, copy.deepcopy(layers)]


def assert_same(one: Layers, other: Layers) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("without", [None, 2])
def test_muon_equals_timms(without):
    """In one case two parameters are without a gradient in one step."""
    theirs, ours = pair()
    start = copy.deepcopy(ours)
    for layers, kind in ((theirs, timm.optim.Muon), (ours, Muon)):
        take(layers, optimizer_of(layers, kind), range(6), without)
    assert_same(ours, theirs)
    for p, q in zip(ours.parameters(), start.parameters(), strict=True):
        assert (p - q).norm() > 1e-2 * q.norm()


@pytest.mark.parametrize("kinds", [(timm.optim.Muon, Muon), (Muon, timm.optim.Muon)])
def test_muon_and_timms_read_each_others_checkpoints(kinds):
    whole, layers = pair()
    take(whole, optimizer_of(whole, timm.optim.Muon), range(6))
    first, second = (optimizer_of(layers, kind) for kind in kinds)
    take(layers, first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take(layers, second, range(3, 6))
    assert_same(layers, whole)


def test_resumed_muon_equals_uninterrupted_bit_for_bit():
    whole, layers = pair()
    take(whole, optimizer_of(whole, Muon), range(6))
    first, second = (optimizer_of(layers, Muon) for _ in range(2))
    take(layers, first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    take(layers, second, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(layers.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("shape", [(3, 5, 20), (3, 20, 5)])
def test_newton_schulz_batch_has_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    factors = newton_schulz(matrices).float()
    assert torch.linalg.svdvals(factors).sub(1).abs().max() < 0.3
    for matrix, factor in zip(matrices, factors, strict=True):
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert torch.cosine_similarity((left @ right).flatten(), factor.flatten(), dim=0) > 0.98


def test_compiled_muon_equals_eager_in_one_graph():
    eager, compiled = pair()
    optimizer = optimizer_of(compiled, Muon)
    optimizer.compile(backend="aot_eager", fullgraph=True)
    take(eager, optimizer_of(eager, Muon), range(3))
    with torch._dynamo.config.patch(error_on_recompile=True):
        take(compiled, optimizer, range(3))
    assert optimizer.orthogonalize is not orthogonalized
    assert_same(compiled, eager)
