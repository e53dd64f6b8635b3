"""The reference path of the benchmark computes what the fast path computes."""

import sys
from pathlib import Path

import torch

from gendd.head import SplitTokenHead

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import input_imagenet  # noqa: E402
import scaling  # noqa: E402
from reference import head_loss  # noqa: E402


def test_reference_and_fast_path_agree_in_loss_and_gradients():
    torch.manual_seed(0)
    head = SplitTokenHead(48, 12, token_dim=16, width=32, repeats=4)
    for parameter in head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    z, target = torch.randn(6, 12, requires_grad=True), torch.randn(6, 48)
    draws = head.draw(6)
    fast, plain = head(z, target, draws)["loss"], head_loss(head, z, target, draws)
    torch.testing.assert_close(fast, plain)
    inputs = [z, *head.parameters()]
    for one, other in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_views_of_the_input_path_are_those_of_its_reference():
    photographs = input_imagenet.read(None, 2)
    for name, timms, ours in input_imagenet.views(photographs):
        for i in range(len(photographs)):
            assert input_imagenet.apart(timms(i), ours(i)) < 0.3, name


def test_scaling_reads_the_rates_of_a_training(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "toys"))
    epochs = scaling.train(scaling.Config("toy:network", "toy:network", epochs=2), processes=2, threads=1)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(epoch["images_per_second"] > 0 for epoch in epochs)
