"""The split-token generative head: `forward` is the training loss, `sample` draws features.

Shapes: B images, M tokens of width d (together one teacher feature, D_t = M d), K repeats a token, S samples,
D_s student feature width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gendd import diffusion
from gendd.denoiser import SOURCES, Denoiser
from gendd.diffusion import NUM_TIMESTEPS, NoiseSchedule
from gendd.errors import UserError

SAMPLERS = ("ancestral", "ddim", "deterministic")
TIMESTEP_SCHEMES = ("independent", "stratified", "paired")
# Tokens x repeats that go through the denoiser at once in training: enough to fill a CPU or an accelerator, no more
# memory.
ROWS_AT_ONCE, ACCELERATED_ROWS_AT_ONCE = 2048, 65536

# Random numbers of a size.
Random = Callable[..., Tensor]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one loss: t (B, M, K) int64, noise (B, M, K, d), dropped (B, M, K) bool.

    weight: (B, M, K), what a draw counts in the mean; None where all count 1.
    shared: of each so many neighbours all but the noise is the same.
    """

    t: Tensor
    noise: Tensor
    dropped: Tensor
    weight: Tensor | None = None
    shared: int = 1

    def rows(self, rows: slice) -> "Draws":
        return self._each(lambda values: values[rows])

    def grouped(self) -> "Draws":
        """What neighbours share, once: t, dropped and weight (B, M, G, 1), noise (B, M, G, shared, d)."""
        groups = self._each(lambda values: values.unflatten(2, (-1, self.shared)))
        weight = None if groups.weight is None else groups.weight[..., :1]
        return Draws(groups.t[..., :1], groups.noise, groups.dropped[..., :1], weight)

    def parts(self, rows: int) -> list["Draws"]:
        """Parts along the third dimension, of at most so many noises in all where that can be."""
        size = max(1, rows // self.noise[:, :, 0, ..., 0].numel())
        count = self.t.shape[2]
        return [self._each(lambda values, k=k: values[:, :, k : k + size]) for k in range(0, count, size)]

    def _each(self, part: Callable[[Tensor], Tensor]) -> "Draws":
        weight = None if self.weight is None else part(self.weight)
        return Draws(part(self.t), part(self.noise), part(self.dropped), weight, self.shared)


class SplitTokenHead(nn.Module):
    """Generates a teacher feature, token by token, from the student's condition (arXiv 2507.14503).

    Args:
        feature_dim: D_t; cond_dim: D_s; token_dim: d, must divide D_t.
        width, depth: of the denoiser.
        repeats: K, draws of (timestep, noise) a token in one loss.
        condition_dropout: probability of a zero condition, per (image, token, repeat).
        timesteps: "independent" draws, or "stratified": the K timesteps of a token fall one into each K-th of the
            range, neighbours share their noise with opposite signs; or "paired": `_paired`. The expectation is
            the same.
        conditioning: "joint": AdaLN projects SiLU(time + condition + position), as the paper's; "factored": the sum
            of a projection of each one's SiLU, whose cost does not grow with K x M. Not the same network.

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
        conditioning: str = "joint",
    ):
        super().__init__()
        check_token_dim(feature_dim, token_dim)
        check_repeats(repeats, timesteps, condition_dropout)
        self.feature_dim, self.token_dim, self.num_tokens = feature_dim, token_dim, feature_dim // token_dim
        self.repeats, self.condition_dropout, self.timesteps = repeats, condition_dropout, timesteps
        self.net = Denoiser(token_dim, self.num_tokens, cond_dim, width, depth, conditioning)
        self.schedule = NoiseSchedule()
        self.register_buffer("timestep_density", diffusion.timestep_density().float(), persistent=False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the residual blocks in the backward pass: less memory, more time, the same result."""
        self.net.grad_checkpointing = enable

    def draw(self, batch: int, generator: torch.Generator | None = None) -> Draws:
        """Random numbers for the loss of `batch` images, on the generator's device."""
        device = generator.device if generator else self.schedule.betas.device
        shape = (batch, self.num_tokens, self.repeats)

        def uniform(*size: int) -> Tensor:
            return torch.rand(size, generator=generator, device=device)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, self.token_dim, generator=generator, device=device)

        if self.timesteps == "paired":
            return self._paired(shape, uniform, normal)
        noise = normal(*shape)
        if self.timesteps == "stratified":
            strata = torch.arange(self.repeats, device=device) + uniform(*shape)
            t = (strata * (NUM_TIMESTEPS / self.repeats)).long().clamp(max=NUM_TIMESTEPS - 1)
            pairs = self.repeats // 2
            noise[:, :, 1 : 2 * pairs : 2] = -noise[:, :, 0 : 2 * pairs : 2]
        else:
            t = torch.randint(NUM_TIMESTEPS, shape, generator=generator, device=device)
        return Draws(t, noise, uniform(*shape) < self.condition_dropout)

    def _paired(self, shape: tuple[int, int, int], uniform: Random, normal: Random) -> Draws:
        """Draws whose weighted mean loss has the same expectation, and a gradient that varies far less.

        They come two and two: one timestep, one noise with both signs. Of a token's pairs a fixed number have the zero
        condition. The timesteps are drawn where they matter most (`timestep_density`), one from each of as many equal
        shares of that density as there are pairs with the condition, and so for those without.
        """
        *tokens, repeats = shape
        pairs = repeats // 2
        without = min(max(round(pairs * self.condition_dropout), int(self.condition_dropout > 0)), pairs - 1)
        given = pairs - without

        def timesteps(count: int) -> Tensor:
            place = uniform(*tokens, count)
            place = (place + torch.arange(count, device=place.device)) / max(count, 1)
            cumulated = self.timestep_density.cumsum(0).to(place.device)
            return torch.searchsorted(cumulated, place).clamp(max=NUM_TIMESTEPS - 1)

        t = torch.cat([timesteps(given), timesteps(without)], -1)
        dropped = (torch.arange(pairs, device=t.device) >= given).expand(t.shape)
        # A pair counts by the probability of its condition, the share of timesteps that it stands for, and the
        # inverse of how much more often than evenly its timestep is drawn.
        count = torch.where(dropped, self.condition_dropout / max(without, 1), (1 - self.condition_dropout) / given)
        weight = pairs * count / (NUM_TIMESTEPS * self.timestep_density.to(t.device)[t])
        noise = normal(*tokens, pairs)
        noise = torch.stack([noise, -noise], -2).flatten(-3, -2)
        t, dropped, weight = (values.repeat_interleave(2, -1) for values in (t, dropped, weight))
        return Draws(t, noise, dropped, weight, shared=2)

    def forward(self, z: Tensor, target: Tensor, draws: Draws | None = None) -> dict[str, Tensor]:
        """Loss of generating `target` (B, D_t) from the condition `z` (B, D_s).

        Returns:
            "loss" = "mse" + "vb", each a mean over B x M x K (scalars; mse and vb without gradient).
        """
        draws = (self.draw(len(z)) if draws is None else draws).grouped()
        count = draws.noise[..., 0].numel()
        net, x_start = self.net, target.float().unflatten(-1, (self.num_tokens, 1, 1, self.token_dim))
        # Each of the 1000 possible timesteps is embedded once at most, a condition once an image; its zero is what
        # Linear(0) gives, the bias.
        many = draws.t.numel() > NUM_TIMESTEPS
        time = net.time_terms(torch.arange(NUM_TIMESTEPS, device=z.device) if many else draws.t)
        image = net.terms("condition", net.cond_embed(z)[:, None, None, None])
        none = net.terms("condition", net.cond_embed.bias.to(image[0]))
        position = net.terms("position", net.pos_embed.weight[:, None, None].to(image[0]))

        def losses(draws: Draws, *embedded: Tensor) -> Tensor:
            terms = []
            for time, image, none, position in zip(*_split(embedded, len(SOURCES) + 1), strict=True):
                time = F.embedding(draws.t, time) if many else time
                terms.append(time + torch.where(draws.dropped[..., None], none, image) + position)
            x_t = self.schedule.add_noise(x_start, draws.noise, draws.t)
            terms = self.schedule.loss_terms(net(x_t, *terms), x_start, draws.noise, draws.t)
            return torch.stack([part.sum() if draws.weight is None else (draws.weight * part).sum() for part in terms])

        embedded = (*time, *image, *none, *position)
        at_once = ROWS_AT_ONCE if z.device.type == "cpu" else ACCELERATED_ROWS_AT_ONCE
        parts = draws.parts(at_once) if many else [draws]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            mse, vb = _SumOfParts.apply(losses, parts, tuple(net.parameters()), *embedded, *net.parameters())
        else:
            mse, vb = sum(losses(part, *embedded) for part in parts)
        mse, vb = mse / count, vb / count
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
        position = self.net.terms("position", self.net.pos_embed.weight)

        def image_terms(embedded: Tensor) -> list[Tensor]:
            return [sum(terms) for terms in zip(self.net.terms("condition", embedded), position, strict=True)]

        unconditional, conditional = (
            image_terms(self.net.cond_embed.bias),
            image_terms(self.net.cond_embed(z)[:, None, None]),
        )
        shape = (len(z), num_samples, self.num_tokens, self.token_dim)

        def predict(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            time = self.net.time_terms(torch.tensor(t, device=z.device))

            def output(image: list[Tensor]) -> Tensor:
                return self.net(x, *(sum(terms) for terms in zip(time, image, strict=True))).float()

            eps, variance = output(conditional).chunk(2, dim=-1)
            if guidance != 1:
                eps_unconditional, _ = output(unconditional).chunk(2, dim=-1)
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


class _SumOfParts(torch.autograd.Function):
    """Sum of `losses(part, *embedded)` over parts, whose activations are held one part at a time.

    The gradient of each part is taken as soon as its loss is known and added up. All elements of the result must
    enter what is differentiated with the same factor.
    """

    @staticmethod
    def forward(ctx, losses, parts, parameters, *inputs):
        embedded = [tensor.detach().requires_grad_() for tensor in inputs[: len(inputs) - len(parameters)]]
        total, ctx.gradients = 0, None
        for part in parts:
            with torch.enable_grad():
                values = losses(part, *embedded)
            with torch.autocast(values.device.type, enabled=False):
                gradients = torch.autograd.grad(
                    values, (*embedded, *parameters), torch.ones_like(values), allow_unused=True
                )
            total = total + values.detach()
            if ctx.gradients is None:
                ctx.gradients = gradients
            else:
                used = [i for i, gradient in enumerate(gradients) if gradient is not None]
                torch._foreach_add_([ctx.gradients[i] for i in used], [gradients[i] for i in used])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factors):
        gradients = [g if g is None else g.mul_(factors[0]) for g in ctx.gradients]
        ctx.gradients = None
        return None, None, None, *gradients


def _split(values: tuple, count: int) -> list[tuple]:
    """`count` tuples of equal length, one after the other."""
    size = len(values) // count
    return [values[i * size : (i + 1) * size] for i in range(count)]


def check_token_dim(feature_dim: int, token_dim: int) -> None:
    if feature_dim % token_dim:
        divisors = sorted(n for n in range(1, feature_dim + 1) if feature_dim % n == 0)
        below = max(n for n in divisors if n <= max(token_dim, 1))
        above = min(n for n in divisors if n >= min(token_dim, feature_dim))
        raise UserError(
            f"--token-dim {token_dim} does not divide the teacher's feature width {feature_dim}; "
            f"nearest that do: {below} and {above}"
        )


def check_repeats(repeats: int, timesteps: str, condition_dropout: float) -> None:
    least = 4 if condition_dropout > 0 else 2
    if timesteps == "paired" and (repeats % 2 or repeats < least):
        raise UserError(
            f"--repeats {repeats}: --timesteps paired draws two and two, with the condition and without; "
            f"set it to {max(least, repeats + repeats % 2)}"
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
