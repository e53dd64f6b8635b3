"""The head's network: noisy tokens and what they are conditioned on in, noise prediction and variance out.

Shapes: tokens of width d, with any leading dimensions, which broadcast.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FREQUENCIES = 256
CONDITIONINGS = ("joint", "factored")
# Of the three embeddings that condition a token, in the order in which they are added.
SOURCES = ("time", "condition", "position")


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


class FactoredModulation(nn.Module):
    """The AdaLN projections of time, condition and position, each for itself; what comes in is their sum."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.time = nn.Linear(width, outputs * width)
        self.condition = nn.Linear(width, outputs * width, bias=False)
        self.position = nn.Linear(width, outputs * width, bias=False)

    def forward(self, total: Tensor) -> Tensor:
        return total


def adaln_modulation(width: int, outputs: int, conditioning: str) -> nn.Module:
    if conditioning == "factored":
        return FactoredModulation(width, outputs)
    # Published checkpoints name the projection `1`, behind a SiLU. All blocks share SiLU(u), so it is applied once.
    return nn.Sequential(nn.Identity(), nn.Linear(width, outputs * width))


class ResBlock(nn.Module):
    """x + gate * MLP(LN(x) * (1 + scale) + shift)."""

    def __init__(self, width: int, conditioning: str):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = adaln_modulation(width, 3, conditioning)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(activated).chunk(3, dim=-1)
        return x + gate * self.mlp(torch.addcmul(shift, self.in_ln(x), 1 + scale))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_features: int, conditioning: str):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out_features)
        self.adaLN_modulation = adaln_modulation(width, 2, conditioning)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        if isinstance(self.adaLN_modulation, FactoredModulation) or x.numel() <= x.shape[-1] ** 2:
            shift, scale = self.adaLN_modulation(activated).chunk(2, dim=-1)
            return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))
        # The shift passes through the output layer alone: for many rows the product of both matrices, as narrow as
        # the output, is cheaper than the shift as wide as x.
        projection, out = self.adaLN_modulation[1], self.linear
        (shift_weight, scale_weight), (shift_bias, scale_bias) = projection.weight.chunk(2), projection.bias.chunk(2)
        scaled = self.norm_final(x) * (1 + F.linear(activated, scale_weight, scale_bias))
        return F.linear(scaled, out.weight, out(shift_bias)) + F.linear(activated, out.weight @ shift_weight)


class Denoiser(nn.Module):
    """AdaLN MLP, (..., d) -> (..., 2d), shared by all tokens. Parameter names are those of published checkpoints."""

    def __init__(self, token_dim: int, num_tokens: int, cond_dim: int, width: int, depth: int, conditioning: str):
        super().__init__()
        self.conditioning = conditioning
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(cond_dim, width)
        self.pos_embed = nn.Embedding(num_tokens, width)
        self.input_proj = nn.Linear(token_dim, width)
        self.res_blocks = nn.ModuleList(ResBlock(width, conditioning) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * token_dim, conditioning)
        self.grad_checkpointing = False
        self.initialize()

    def initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.time_embed.mlp[0], self.time_embed.mlp[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in self.layers:
            for projection in layer.adaLN_modulation.modules():
                if isinstance(projection, nn.Linear):
                    nn.init.zeros_(projection.weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    @property
    def layers(self) -> list[nn.Module]:
        return [*self.res_blocks, self.final_layer]

    def terms(self, source: str, embedded: Tensor) -> tuple[Tensor, ...]:
        """What one of the `SOURCES`, embedded (..., width), adds to the conditioning that `forward` takes.

        Joint: the embedding itself, the layers project the sum. Factored: each layer's projection (..., 2 or 3 width)
        of it alone, so that no layer projects anything once a token and repeat.
        """
        if self.conditioning == "joint":
            return (embedded,)
        activated = F.silu(embedded)
        return tuple(getattr(layer.adaLN_modulation, source)(activated) for layer in self.layers)

    def time_terms(self, t: Tensor) -> tuple[Tensor, ...]:
        return self.terms("time", self.time_embed(t))

    def forward(self, x: Tensor, *terms: Tensor) -> Tensor:
        """x: (..., d) noisy tokens; terms: sums over the sources of their `terms`. Leading shapes broadcast."""
        x = self.input_proj(x)
        conditions = [F.silu(*terms)] * len(self.layers) if self.conditioning == "joint" else terms
        for layer, condition in zip(self.layers, conditions, strict=True):
            if self.grad_checkpointing and self.training and layer is not self.final_layer:
                x = checkpoint(layer, x, condition, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, condition)
        return x
