"""Count of floating-point operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gendd.networks.cost import flops

HEADS, TOKENS, WIDTH = 2, 10, 16
# Two products of (T x D/H) and (T x T) matrices per head; a multiply-add counts as two.
ATTENTION = 2 * 2 * TOKENS * TOKENS * WIDTH


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_counts_on_each_device(device, masked):
    query = torch.zeros(1, HEADS, TOKENS, WIDTH // HEADS, device=device)
    mask = torch.zeros(TOKENS, TOKENS, device=device) if masked else None
    assert flops(lambda: F.scaled_dot_product_attention(query, query, query, mask)) == ATTENTION


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_multihead_attention_counts_projections(device):
    layer = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, device=device).eval()
    tokens = torch.zeros(1, TOKENS, WIDTH, device=device)
    projections = 4 * 2 * TOKENS * WIDTH * WIDTH
    assert flops(lambda: layer(tokens, tokens, tokens, need_weights=False)) == ATTENTION + projections
