"""The split-token generative head: `forward` is the training loss, `sample` draws features.

Shapes: B images, M tokens of width d (together one teacher feature, D_t = M d), K repeats a token, S samples,
D_s student feature width.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gendd import diffusion
from gendd.diffusion import NUM_TIMESTEPS, NoiseSchedule
from gendd.errors import UserError

FREQUENCIES = 256
SAMPLERS = ("ancestral", "ddim", "deterministic")
TIMESTEP_SCHEMES = ("independent", "stratified")


@dataclass(frozen=True)
class Draws:
    """The random numbers of one loss: t (B, M, K) int64, noise (B, M, K, d), dropped (B, M, K) bool."""

    t: Tensor
    noise: Tensor
    dropped: Tensor

    def rows(self, rows: slice) -> "Draws":
        return Draws(self.t[rows], self.noise[rows], self.dropped[rows])


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

    def lookup(self, t: Tensor) -> Tensor:
        """The same for many timesteps at once: each of the 1000 possible ones is embedded only once."""
        if t.numel() <= NUM_TIMESTEPS:
            return self(t)
        return F.embedding(t, self(torch.arange(NUM_TIMESTEPS, device=t.device)))


def adaln_modulation(width: int, outputs: int) -> nn.Sequential:
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
        shift, scale = self.adaLN_modulation(activated).chunk(2, dim=-1)
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))


class Denoiser(nn.Module):
    """AdaLN MLP, (..., d) -> (..., 2d), shared by all tokens. Parameter names are those of published checkpoints."""

    def __init__(self, token_dim: int, num_tokens: int, cond_dim: int, width: int, depth: int):
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(cond_dim, width)
        self.pos_embed = nn.Embedding(num_tokens, width)
        self.input_proj = nn.Linear(token_dim, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * token_dim)
        self.grad_checkpointing = False
        self.initialize()

    def initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time_embed.mlp[0], self.time_embed.mlp[2], self.pos_embed):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*self.res_blocks, self.final_layer):
            nn.init.zeros_(layer.adaLN_modulation[1].weight)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(self, x: Tensor, u: Tensor) -> Tensor:
        """x: (..., d) noisy tokens; u: (..., width) time + condition + position. Leading shapes broadcast."""
        x, activated = self.input_proj(x), F.silu(u)
        for block in self.res_blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, activated, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, activated)
        return self.final_layer(x, activated)


class SplitTokenHead(nn.Module):
    """Generates a teacher feature, token by token, from the student's condition (arXiv 2507.14503).

    Args:
        feature_dim: D_t; cond_dim: D_s; token_dim: d, must divide D_t.
        width, depth: of the denoiser.
        repeats: K, draws of (timestep, noise) a token in one loss.
        condition_dropout: probability of a zero condition, per (image, token, repeat).
        timesteps: "independent" draws, or "stratified": the K timesteps of a token fall one into each K-th of the
            range, neighbours share their noise with opposite signs. The expectation is the same.

    Raises:
        UserError: the token width does not divide the feature.
    """

    def __init__(
        self,
        feature_dim: int,
        cond_dim: int,
        token_dim: int = 64,
        width: int = 1024,
        depth: int = 3,
        repeats: int = 30,
        condition_dropout: float = 0.2,
        timesteps: str = "independent",
    ):
        super().__init__()
        check_token_dim(feature_dim, token_dim)
        self.feature_dim, self.token_dim, self.num_tokens = feature_dim, token_dim, feature_dim // token_dim
        self.repeats, self.condition_dropout, self.timesteps = repeats, condition_dropout, timesteps
        self.net = Denoiser(token_dim, self.num_tokens, cond_dim, width, depth)
        self.schedule = NoiseSchedule()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the residual blocks in the backward pass: less memory, more time, the same result."""
        self.net.grad_checkpointing = enable

    def draw(self, batch: int, generator: torch.Generator | None = None) -> Draws:
        """Random numbers for the loss of `batch` images, on the generator's device."""
        device = generator.device if generator else self.schedule.betas.device
        shape = (batch, self.num_tokens, self.repeats)

        def uniform(*size: int) -> Tensor:
            return torch.rand(size, generator=generator, device=device)

        noise = torch.randn(*shape, self.token_dim, generator=generator, device=device)
        if self.timesteps == "stratified":
            strata = torch.arange(self.repeats, device=device) + uniform(*shape)
            t = (strata * (NUM_TIMESTEPS / self.repeats)).long().clamp(max=NUM_TIMESTEPS - 1)
            pairs = self.repeats // 2
            noise[:, :, 1 : 2 * pairs : 2] = -noise[:, :, 0 : 2 * pairs : 2]
        else:
            t = torch.randint(NUM_TIMESTEPS, shape, generator=generator, device=device)
        return Draws(t, noise, uniform(*shape) < self.condition_dropout)

    def forward(self, z: Tensor, target: Tensor, draws: Draws | None = None) -> dict[str, Tensor]:
        """Loss of generating `target` (B, D_t) from the condition `z` (B, D_s).

        Returns:
            "loss" = "mse" + "vb", each a mean over B x M x K (scalars; mse and vb without gradient).
        """
        draws = self.draw(len(z)) if draws is None else draws
        x_start = target.float().unflatten(-1, (self.num_tokens, 1, self.token_dim))
        x_t = self.schedule.add_noise(x_start, draws.noise, draws.t)
        # The condition is embedded once an image; its zero is what Linear(0) gives, the bias.
        condition = self.net.cond_embed(z)[:, None, None]
        condition = torch.where(draws.dropped[..., None], self.net.cond_embed.bias.to(condition), condition)
        u = self.net.time_embed.lookup(draws.t) + condition + self.net.pos_embed.weight[:, None].to(condition)
        mse, vb = self.schedule.loss_terms(self.net(x_t, u), x_start, draws.noise, draws.t)
        mse, vb = mse.mean(), vb.mean()
        return {"loss": mse + vb, "mse": mse.detach(), "vb": vb.detach()}

    def sample(
        self,
        z: Tensor,
        sampler: str = "deterministic",
        steps: int = 2,
        num_samples: int = 1,
        guidance: float = 2.0,
        start: int = 800,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw features (B, S, D_t) for conditions z (B, D_s).

        Args:
            sampler: "ancestral" (the paper's) and "ddim" start from noise at t = 999; "deterministic" is the DDIM
                path from zero, where averaging many samples leads, at t = `start`, and has one outcome (S = 1).
            steps: of the 1000 timesteps, evenly spaced; the deterministic path's in its upper part.
            num_samples: S.
            guidance: scale s of eps = eps_uncond + s (eps_cond - eps_uncond); the variance is the conditional one.
            generator: of all noise, on any device.

        Raises:
            UserError: a sampler of no such name, or settings it cannot have.
        """
        check_sampling(sampler, steps, num_samples, start)
        deterministic = sampler == "deterministic"
        timesteps = diffusion.zero_path_timesteps(start, steps) if deterministic else diffusion.spaced_timesteps(steps)
        schedule = NoiseSchedule(timesteps).to(z.device)
        position = self.net.pos_embed.weight
        unconditional = self.net.cond_embed.bias + position
        conditional = self.net.cond_embed(z)[:, None, None] + position
        shape = (len(z), num_samples, self.num_tokens, self.token_dim)

        def predict(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            time = self.net.time_embed(torch.tensor(t, device=z.device))
            eps, variance = self.net(x, time + conditional).float().chunk(2, dim=-1)
            if guidance != 1:
                eps_unconditional, _ = self.net(x, time + unconditional).float().chunk(2, dim=-1)
                eps = torch.lerp(eps_unconditional, eps, guidance)
            return eps, variance

        def noise() -> Tensor:
            device = generator.device if generator else z.device
            return torch.randn(shape, generator=generator, device=device).to(z.device)

        if sampler == "ancestral":
            tokens = diffusion.sample_ancestral(schedule, predict, noise(), noise)
        else:
            # One token row of zeros: until it meets the condition, the path is the same for all images.
            x = z.new_zeros(1, 1, *shape[2:], dtype=torch.float32) if deterministic else noise()
            tokens = diffusion.sample_ddim(schedule, predict, x)
        return tokens.flatten(-2)


def check_token_dim(feature_dim: int, token_dim: int) -> None:
    if feature_dim % token_dim:
        divisors = sorted(n for n in range(1, feature_dim + 1) if feature_dim % n == 0)
        below = max(n for n in divisors if n <= max(token_dim, 1))
        above = min(n for n in divisors if n >= min(token_dim, feature_dim))
        raise UserError(
            f"--token-dim {token_dim} does not divide the teacher's feature width {feature_dim}; "
            f"nearest that do: {below} and {above}"
        )


def check_sampling(sampler: str, steps: int, num_samples: int, start: int) -> None:
    if sampler not in SAMPLERS:
        raise UserError(f"--sampler {sampler}: choose one of {', '.join(SAMPLERS)}")
    if not 2 <= start < NUM_TIMESTEPS:
        raise UserError(f"--start {start}: choose a timestep from 2 to {NUM_TIMESTEPS - 1}")
    least = 1 if sampler == "deterministic" else 2
    most = start - 1 if sampler == "deterministic" else NUM_TIMESTEPS
    if not least <= steps <= most:
        raise UserError(f"--steps {steps}: the {sampler} sampler takes {least} to {most}")
    if num_samples < 1:
        raise UserError(f"--num-samples {num_samples}: must be at least 1")
    if sampler == "deterministic" and num_samples != 1:
        raise UserError(
            f"--num-samples {num_samples}: the deterministic sampler has one outcome; set it to 1, or choose "
            "--sampler ancestral"
        )
