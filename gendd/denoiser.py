"""The head's network: noisy tokens and what they are conditioned on in, a prediction (and its variance) out.

Shapes: tokens of width d, with any leading dimensions, which broadcast.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FREQUENCIES = 256


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embeds timesteps of any shape: cosines, then sines, of 128 frequencies from 1 to 1/10000."""
        half = FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = t[..., None].float() * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


def adaln_modulation(width: int, outputs: int) -> nn.Module:
    # Published checkpoints name the projection `1`, behind a SiLU. All blocks share SiLU(u), so it is applied once.
    return nn.Sequential(nn.Identity(), nn.Linear(width, outputs * width))


class ResBlock(nn.Module):
    """x + gate * MLP(LN(x) * (1 + scale) + shift)."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = adaln_modulation(width, 3)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(activated).chunk(3, dim=-1)
        return x + gate * self.mlp(torch.addcmul(shift, self.in_ln(x), 1 + scale))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_features: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out_features)
        self.adaLN_modulation = adaln_modulation(width, 2)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        if x.numel() <= x.shape[-1] ** 2:
            shift, scale = self.adaLN_modulation(activated).chunk(2, dim=-1)
            return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))
        # The shift passes through the output layer alone: for many rows the product of both matrices, as narrow as
        # the output, is cheaper than the shift as wide as x.
        projection, out = self.adaLN_modulation[1], self.linear
        (shift_weight, scale_weight), (shift_bias, scale_bias) = projection.weight.chunk(2), projection.bias.chunk(2)
        scaled = self.norm_final(x) * (1 + F.linear(activated, scale_weight, scale_bias))
        return F.linear(scaled, out.weight, out(shift_bias)) + F.linear(activated, out.weight @ shift_weight)


class Denoiser(nn.Module):
    """AdaLN MLP, (..., d) -> (..., outputs), shared by all tokens. Parameter names are those of published checkpoints.

    Args:
        cond_dim: D_s.
        outputs: values per token; the paper's 2d are a noise prediction and its variance.
        condition_input: whether the condition is also added to the denoiser's input. Through AdaLN, whose projections
            start at zero, it reaches the output only after many steps, and its gradient the backbone.
    """

    def __init__(
        self,
        token_dim: int,
        num_tokens: int,
        cond_dim: int,
        width: int,
        depth: int,
        outputs: int,
        condition_input: bool = False,
    ):
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(cond_dim, width)
        self.pos_embed = nn.Embedding(num_tokens, width)
        self.input_proj = nn.Linear(token_dim, width)
        self.cond_proj = nn.Linear(cond_dim, width) if condition_input else None
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, outputs)
        self.grad_checkpointing = False
        self.initialize()

    def initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time_embed.mlp[0], self.time_embed.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*self.res_blocks, self.final_layer):
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def embed_condition(self, z: Tensor) -> tuple[Tensor, ...]:
        """What conditions (..., D_s) add to the embedding u, and to the input if they enter there too: (..., width)."""
        return tuple(layer(z) for layer in self._condition_layers())

    def no_condition(self) -> tuple[Tensor, ...]:
        """`embed_condition` of the zero condition, each (width,)."""
        return tuple(layer.bias for layer in self._condition_layers())

    def _condition_layers(self) -> list[nn.Linear]:
        return [self.cond_embed] if self.cond_proj is None else [self.cond_embed, self.cond_proj]

    def forward(self, x: Tensor, u: Tensor, *added: Tensor) -> Tensor:
        """
        Args:
            x: (..., d) noisy tokens.
            u: (..., width) sum of the embeddings of time, condition and position; leading shapes broadcast.
            added: (..., width), the condition's part of the input, if it has one.
        """
        x = self.input_proj(x)
        if added:
            x = x + added[0]
        activated = F.silu(u)
        for block in self.res_blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, activated, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, activated)
        return self.final_layer(x, activated)
