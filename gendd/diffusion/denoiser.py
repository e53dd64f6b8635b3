"""The head's network: it maps noisy tokens and their condition to a prediction and its variance.

Shapes: B images, M tokens of width d, with any dimensions in between, such as draws.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gendd.diffusion.schedule import NUM_TIMESTEPS

FREQUENCIES = 256


class TimeEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps (...) as (..., width): cosines, then sines, of 128 frequencies from 1 to 1/10000."""
        if t.numel() > NUM_TIMESTEPS:  # Embed each possible timestep once.
            return F.embedding(t, self(torch.arange(NUM_TIMESTEPS, device=t.device)))
        half = FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angles = t.reshape(-1, 1) * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1)).view(*t.shape, -1)


def adaln_modulation(width: int, outputs: int) -> nn.Module:
    # Published checkpoints have the projection as entry `1`, after a SiLU. All blocks share SiLU(u), computed once.
    return nn.Sequential(nn.Identity(), nn.Linear(width, outputs * width))


class ResBlock(nn.Module):
    """AdaLN residual block: x + gate * MLP(LN(x) * (1 + scale) + shift)."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = adaln_modulation(width, 3)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(activated).chunk(3, dim=-1)
        return x + gate * self.mlp(torch.addcmul(shift, self.in_ln(x), 1 + scale))


class ResidualBlock(nn.Sequential):
    """Residual block: x + MLP(LN(x))."""

    def __init__(self, width: int):
        super().__init__(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def condition_trunk(cond_dim: int, width: int, depth: int) -> nn.Sequential:
    blocks = (ResidualBlock(width) for _ in range(depth))
    return nn.Sequential(nn.Linear(cond_dim, width), *blocks, nn.LayerNorm(width), nn.Linear(width, width))


class FinalLayer(nn.Module):
    def __init__(self, width: int, out_features: int):
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, out_features)
        self.adaLN_modulation = adaln_modulation(width, 2)

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(activated).chunk(2, dim=-1)
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))


class Denoiser(nn.Module):
    """AdaLN MLP, (..., d) -> (..., outputs), shared by all tokens. Parameters have the names of published checkpoints.

    Args:
        cond_dim: D_s.
        outputs: values per token. The paper's 2d values are a noise prediction and its variance.
        trunk_depth: residual blocks of a separate network for the condition, which runs once per image. Its output is
            added to the denoiser's input. With 0, as published, the condition joins time and position in AdaLN. The
            AdaLN projections start at zero, so for many steps no gradient reaches the backbone.
    """

    def __init__(
        self,
        token_dim: int,
        num_tokens: int,
        cond_dim: int,
        width: int,
        depth: int,
        outputs: int,
        trunk_depth: int = 0,
    ):
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.has_trunk = trunk_depth > 0
        self.cond_embed = condition_trunk(cond_dim, width, trunk_depth) if trunk_depth else nn.Linear(cond_dim, width)
        self.pos_embed = nn.Embedding(num_tokens, width)
        self.input_proj = nn.Linear(token_dim, width)
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

    def no_condition(self) -> Tensor:
        """Embed the zero condition, (width,)."""
        if not self.has_trunk:
            return self.cond_embed.bias
        first = self.cond_embed[0]
        return self.cond_embed(first.weight.new_zeros(first.in_features))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict for noisy tokens.

        Args:
            x: (B, M, ..., d), tokens in order along the second dimension.
            t: (B, M, ...) timesteps, broadcast.
            condition: (B, M, ..., width) from `cond_embed`, broadcast.

        Returns:
            (B, M, ..., outputs).
        """
        position = self.pos_embed.weight.view(-1, *[1] * (x.dim() - 3), self.pos_embed.embedding_dim)
        x, time = self.input_proj(x), self.time_embed(t)
        if self.has_trunk:
            x, u = x + condition, time + position
        else:
            u = time + condition + position
        activated = F.silu(u.to(condition))
        for block in self.res_blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, activated, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, activated)
        return self.final_layer(x, activated)
