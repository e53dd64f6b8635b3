"""The split-token generative head: `forward` is the training loss, `sample` generates features.

Shapes: B images, M tokens of width d (together one teacher feature, D_t = M d), S samples, D_s student feature width.
A token has K draws, in G groups of n (`gendd.diffusion.draws`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.core.ranges import check_values
from gendd.diffusion import samplers
from gendd.diffusion.denoiser import Denoiser
from gendd.diffusion.draws import Drawing, Draws
from gendd.diffusion.objective import Objective
from gendd.diffusion.options import HeadOptions
from gendd.diffusion.schedule import NoiseSchedule
from gendd.diffusion.slices import sum_in_slices

# Options of the published head (arXiv 2507.14503). Its `repeats` are 30 for CIFAR and 10 for ImageNet.
PAPER = {
    "depth": 3,
    "trunk_depth": 0,
    "condition_dropout": 0.2,
    "draw_scheme": "independent",
    "prediction": "noise",
    "timestep_density": "uniform",
    "loss_weighting": "none",
    "noise_path": "cosine",
}
# Noisy tokens per call of the denoiser in training: enough to fill a CPU or a GPU; more would only need more memory.
ROWS_AT_ONCE, GPU_ROWS_AT_ONCE = 2048, 65536


class SplitTokenHead(nn.Module):
    """Generator of a teacher feature, split into tokens, from the student's condition (arXiv 2507.14503).

    Args:
        feature_dim: D_t.
        cond_dim: D_s.
        options: fields of `HeadOptions`, such as token_dim=64. The token width d must divide D_t.

    Raises:
        UserError: the value of an option is not valid, or does not work together with another one's.
        TypeError: an option is unknown.
    """

    draws_features = True

    def __init__(self, feature_dim: int, cond_dim: int, **options: Any):
        super().__init__()
        given = HeadOptions(**options)
        check_values(given)
        check_token_dim(feature_dim, given.token_dim)
        self.feature_dim, self.token_dim, self.num_tokens = feature_dim, given.token_dim, feature_dim // given.token_dim
        self.objective = Objective(given.prediction, given.timestep_density, given.loss_weighting, given.noise_path)
        outputs = (2 if self.objective.learns_variance else 1) * given.token_dim
        self.net = Denoiser(
            given.token_dim, self.num_tokens, cond_dim, given.width, given.depth, outputs, given.trunk_depth
        )
        densities = self.objective.timestep_density(), self.objective.proposal()
        self.drawing = Drawing(given.draw_scheme, given.repeats, *densities, given.condition_dropout)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the residual blocks in the backward pass: less memory, more time, the same result."""
        self.net.grad_checkpointing = enable

    def draw(self, batch: int, generator: torch.Generator | None = None) -> Draws:
        """Draw the random numbers for the loss of `batch` images, on the generator's device."""
        device = generator.device if generator else self.objective.error_weight.device
        return self.drawing(batch, self.num_tokens, self.token_dim, generator, device)

    def forward(self, z: Tensor, target: Tensor, draws: Draws | None = None) -> dict[str, Tensor]:
        """Compute the loss of generating `target` (B, D_t) from the condition `z` (B, D_s).

        Returns:
            "loss" = "mse" (+ "vb" if the variance is learned), means over B x M x K. All are scalars; only "loss" has a
            gradient.
        """
        draws = self.draw(len(z)) if draws is None else draws
        x_start = target.float().unflatten(-1, (self.num_tokens, 1, 1, self.token_dim))  # (B, M, 1, 1, d)
        condition = self.net.cond_embed(z).view(len(z), 1, 1, 1, -1)  # (B, 1, 1, 1, width)

        def loss(draws: Draws, c: Tensor) -> Tensor:
            if draws.dropped is not None:
                c = torch.where(draws.dropped[..., None], self.net.no_condition().to(c), c)
            x_t = self.objective.schedule.add_noise(x_start, draws.noise, draws.t)
            errors = self.objective.errors(self.net(x_t, draws.t, c), x_start, draws.noise, draws.t)
            return torch.stack([(draws.weight * error).sum() for error in errors])

        slices = draws.slices(GPU_ROWS_AT_ONCE if z.is_cuda else ROWS_AT_ONCE)
        terms = sum_in_slices(loss, slices, condition, network=self.net) / draws.count
        return {"loss": terms.sum(), **dict(zip(self.objective.terms, terms.detach(), strict=True))}

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
        """Sample features (B, S, D_t) for conditions z (B, D_s).

        Args:
            sampler: "ancestral" (the paper's) starts from noise at t = 999. "deterministic" is the DDIM path from zero,
                the mean of the noise, at t = `start`; it has one outcome (S = 1).
            steps: number of timesteps, evenly spaced; see `zero_path_timesteps` for the deterministic path.
            num_samples: S.
            guidance: scale s of prediction = uncond + s (cond - uncond); the variance is the conditional one.
            generator: source of all noise, on any device.

        Raises:
            UserError: the sampler is unknown, or does not work with the settings.
        """
        samplers.check_sampling(sampler, steps, num_samples, start)
        self.objective.check_sampling(sampler, start)
        deterministic = sampler == "deterministic"
        timesteps = samplers.zero_path_timesteps(start, steps) if deterministic else samplers.spaced_timesteps(steps)
        schedule = NoiseSchedule(timesteps, self.objective.path).to(z.device)
        condition = self.net.cond_embed(z[:, None, None])  # (B, 1, 1, width)
        no_condition = None if guidance == 1 else self.net.no_condition()

        def predict(x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
            t = torch.tensor(schedule.timesteps[index], device=z.device)
            prediction, variance = self.objective.split(self.net(x, t, condition).float())
            if guidance != 1:
                without, _ = self.objective.split(self.net(x, t, no_condition).float())
                prediction = torch.lerp(without, prediction, guidance)
            return *self.objective.denoised(schedule, prediction, x, index), variance

        def noise() -> Tensor:
            device = generator.device if generator else z.device
            shape = len(z), num_samples, self.num_tokens, self.token_dim
            return torch.randn(shape, generator=generator, device=device).to(z.device).transpose(1, 2)

        if deterministic:
            # One row of zeros is enough: all images start from the same point.
            zeros = z.new_zeros(1, self.num_tokens, 1, self.token_dim, dtype=torch.float32)
            features = samplers.sample_deterministic(schedule, predict, zeros)
        else:
            features = samplers.sample_ancestral(schedule, predict, noise(), noise)
        return features.transpose(1, 2).flatten(-2)  # (B, M, S, d) -> (B, S, D_t)


def check_token_dim(feature_dim: int, token_dim: int) -> None:
    if feature_dim % token_dim:
        divisors = sorted(n for n in range(1, feature_dim + 1) if feature_dim % n == 0)
        below = max(n for n in divisors if n <= max(token_dim, 1))
        above = min(n for n in divisors if n >= min(token_dim, feature_dim))
        raise InvalidSetting(
            "token_dim",
            token_dim,
            f"does not divide the teacher's feature width {feature_dim}; choose a divisor such as {below} or {above}",
        )
