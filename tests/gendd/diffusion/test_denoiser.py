"""Initial weights of the denoiser, compared with the published code."""

import pytest
import torch

from gendd.diffusion.denoiser import Denoiser


def test_initial_weights_are_as_published():
    torch.manual_seed(0)
    net = Denoiser(token_dim=16, num_tokens=64, cond_dim=64, width=256, depth=2, outputs=32)
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    assert weights.pop("pos_embed.weight").std().item() == pytest.approx(1, rel=0.05)
    for name, weight in weights.items():
        if name.endswith("bias") or "adaLN_modulation" in name or name == "final_layer.linear.weight":
            assert not weight.any(), name
        elif name.startswith("time_embed"):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05), name
        elif weight.dim() == 2:  # Xavier: uniform within +-sqrt(6 / (in + out)).
            assert weight.abs().max().item() == pytest.approx((6 / sum(weight.shape)) ** 0.5, rel=0.01), name
        else:  # Layer norm scales.
            assert (weight == 1).all(), name
