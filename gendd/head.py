"""The split-token generative head: `forward` is the training loss, `sample` draws features.

Shapes: B images, M tokens of width d (together one teacher feature, D_t = M d), K draws per token, S samples,
D_s student feature width.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd import diffusion
from gendd.chunked import sum_of_slices
from gendd.denoiser import Denoiser
from gendd.diffusion import NUM_TIMESTEPS, NoiseSchedule
from gendd.draws import Drawing, Draws
from gendd.errors import UserError
from gendd.objective import Objective

PREDICTS = "predicts_"
# Tokens x draws that go through the denoiser at once in training: enough to fill a CPU or an accelerator, no more
# memory.
ROWS_AT_ONCE, ACCELERATED_ROWS_AT_ONCE = 2048, 65536


class SplitTokenHead(nn.Module):
    """Generates a teacher feature, token by token, from the student's condition (arXiv 2507.14503).

    Args:
        feature_dim: D_t; cond_dim: D_s; token_dim: d, must divide D_t.
        width, depth: of the denoiser.
        repeats: K, draws of (timestep, noise) per token in one loss.
        condition_dropout: probability of a zero condition, per (image, token, draw).
        timesteps: how they are drawn (`gendd.draws`).
        trunk_depth: residual blocks of the condition's own network, 0 for none (`Denoiser`).
        prediction, timestep_density, loss_weight, noise_path: the `gendd.objective.Objective`.

    Raises:
        UserError: the token width does not divide the feature, or choices that do not go together.

    Attributes:
        draws_features: that they come of a sampler, and are not merely computed.
    """

    draws_features = True

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
        trunk_depth: int = 0,
        prediction: str = "noise",
        timestep_density: str = "uniform",
        loss_weight: str = "own",
        noise_path: str = "cosine",
    ):
        super().__init__()
        check_token_dim(feature_dim, token_dim)
        self.feature_dim, self.token_dim, self.num_tokens = feature_dim, token_dim, feature_dim // token_dim
        self.objective = objective = Objective(prediction, timestep_density, loss_weight, noise_path)
        self.learns_variance = prediction == "noise"
        if (prediction, noise_path) != ("noise", "cosine"):
            # In no computation, but in every file of weights: it tells a head from those that predict something else.
            self.register_buffer(f"{PREDICTS}{prediction}_{noise_path}", torch.ones(()))
        outputs = 2 * token_dim if self.learns_variance else token_dim
        self.net = Denoiser(token_dim, self.num_tokens, cond_dim, width, depth, outputs, trunk_depth)
        self.schedule = NoiseSchedule(path=noise_path)
        self.drawing = Drawing(
            timesteps, repeats, objective.timestep_density(), objective.proposal(), condition_dropout
        )
        self.register_buffer("error_weight", objective.error_weight(self.schedule).float(), persistent=False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the residual blocks in the backward pass: less memory, more time, the same result."""
        self.net.grad_checkpointing = enable

    def draw(self, batch: int, generator: torch.Generator | None = None) -> Draws:
        """Random numbers for the loss of `batch` images, on the generator's device."""
        device = generator.device if generator else self.error_weight.device
        return self.drawing(batch, self.num_tokens, self.token_dim, generator, device)

    def forward(self, z: Tensor, target: Tensor, draws: Draws | None = None) -> dict[str, Tensor]:
        """Loss of generating `target` (B, D_t) from the condition `z` (B, D_s).

        Returns:
            "loss" = "mse" (+ "vb" where the variance is learned), means over B x M x K (scalars; the terms without
            gradient).
        """
        draws = (self.draw(len(z)) if draws is None else draws).grouped()
        count, net = draws.noise[..., 0].numel(), self.net
        x_start = target.float().unflatten(-1, (self.num_tokens, 1, 1, self.token_dim))
        # Each of the 1000 possible timesteps is embedded once at most, a condition once per image.
        many = draws.t.numel() > NUM_TIMESTEPS
        table = [net.time_embed(torch.arange(NUM_TIMESTEPS, device=z.device))] if many else []
        condition = net.cond_embed(z[:, None, None, None])
        position = net.pos_embed.weight[:, None, None].to(condition)

        def losses(draws: Draws, condition: Tensor, position: Tensor, *table: Tensor) -> Tensor:
            if draws.dropped is not None:
                condition = torch.where(draws.dropped[..., None], net.no_condition().to(condition), condition)
            time = F.embedding(draws.t, *table) if table else net.time_embed(draws.t)
            output = net(self.schedule.add_noise(x_start, draws.noise, draws.t), time, condition, position)
            terms = self._terms(output, x_start, draws.noise, draws.t)
            return torch.stack([term.sum() if draws.weight is None else (draws.weight * term).sum() for term in terms])

        at_once = ROWS_AT_ONCE if z.device.type == "cpu" else ACCELERATED_ROWS_AT_ONCE
        terms = sum_of_slices(losses, draws.slices(at_once), net, condition, position, *table) / count
        named = dict(zip(("mse", "vb"), terms.detach(), strict=False))
        return {"loss": terms.sum(), **named}

    def _terms(self, output: Tensor, x_start: Tensor, noise: Tensor, t: Tensor) -> list[Tensor]:
        """The loss's terms for each draw (...)."""
        if self.learns_variance:
            mse, *others = self.schedule.loss_terms(output, x_start, noise, t)
        else:
            target = self.objective.target(self.schedule, x_start, noise, t)
            mse, others = (output.float() - target).square().mean(-1), []
        return [self.error_weight[t] * mse, *others]

    def sample(
        self,
        z: Tensor,
        sampler: str = "deterministic",
        steps: int = 1,
        num_samples: int = 1,
        guidance: float = 1.0,
        start: int = 999,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw features (B, S, D_t) for conditions z (B, D_s).

        Args:
            sampler: "ancestral" (the paper's) starts from noise at t = 999; "deterministic" is the DDIM path from zero,
                where averaging many samples leads, at t = `start`, and has one outcome (S = 1).
            steps: of the 1000 timesteps, evenly spaced; the deterministic path's in its upper part.
            num_samples: S.
            guidance: scale s of prediction = uncond + s (cond - uncond); the variance is the conditional one.
            generator: of all noise, on any device.

        Raises:
            UserError: a sampler of no such name, or settings it cannot have.
        """
        diffusion.check_sampling(sampler, steps, num_samples, start)
        self.objective.check_sampling(sampler, start)
        deterministic = sampler == "deterministic"
        timesteps = diffusion.zero_path_timesteps(start, steps) if deterministic else diffusion.spaced_timesteps(steps)
        schedule = NoiseSchedule(timesteps, self.objective.path).to(z.device)
        position = self.net.pos_embed.weight
        conditional = self.net.cond_embed(z[:, None, None])
        unconditional = None if guidance == 1 else self.net.no_condition()
        shape = (len(z), num_samples, self.num_tokens, self.token_dim)

        def predict(x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
            time = self.net.time_embed(torch.tensor(schedule.timesteps[index], device=z.device))

            prediction, variance = self._split(self.net(x, time, conditional, position).float())
            if guidance != 1:
                without, _ = self._split(self.net(x, time, unconditional, position).float())
                prediction = torch.lerp(without, prediction, guidance)
            return *self.objective.denoised(schedule, prediction, x, index), variance

        def noise() -> Tensor:
            device = generator.device if generator else z.device
            return torch.randn(shape, generator=generator, device=device).to(z.device)

        if not deterministic:
            return diffusion.sample_ancestral(schedule, predict, noise(), noise).flatten(-2)
        # One row of zeros: until it meets the condition, the path is the same for all images.
        zeros = z.new_zeros(1, 1, *shape[2:], dtype=torch.float32)
        return diffusion.sample_deterministic(schedule, predict, zeros).flatten(-2)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and variance coefficient; where that is not learned, -1, the posterior's variance."""
        if self.learns_variance:
            return output.chunk(2, dim=-1)
        return output, -torch.ones_like(output)


def settings_of(tensors: Iterable[str]) -> dict[str, Any]:
    """--prediction and --noise-path of the head that tensors of these names are of."""
    marks = (name.partition(f"head.{PREDICTS}")[2] for name in tensors)
    prediction, _, path = next((mark for mark in marks if mark), "noise_cosine").partition("_")
    return {"prediction": prediction, "noise_path": path}


def check_token_dim(feature_dim: int, token_dim: int) -> None:
    if feature_dim % token_dim:
        divisors = sorted(n for n in range(1, feature_dim + 1) if feature_dim % n == 0)
        below = max(n for n in divisors if n <= max(token_dim, 1))
        above = min(n for n in divisors if n >= min(token_dim, feature_dim))
        raise UserError(
            f"--token-dim {token_dim} does not divide the teacher's feature width {feature_dim}; "
            f"nearest that do: {below} and {above}"
        )
