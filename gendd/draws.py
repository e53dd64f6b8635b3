"""The random numbers of the head's loss: which timesteps, which noise, which conditions are dropped.

Shapes: B images, M tokens of width d, K draws per token.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor, nn

from gendd.diffusion import NUM_TIMESTEPS
from gendd.errors import UserError

SCHEMES = ("independent", "shared", "paired")

# Random numbers of a size.
Random = Callable[..., Tensor]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one loss: t (B, M, K) int64, or (1, 1, K) if all tokens share them, noise (B, M, K, d).

    dropped: (B, M, K) bool, which draws have no condition; None where all have it.
    weight: (B, M, K), what a draw counts in the mean; None where all count 1.
    shared: of each so many neighbors all but the noise is the same.
    """

    t: Tensor
    noise: Tensor
    dropped: Tensor | None = None
    weight: Tensor | None = None
    shared: int = 1

    def rows(self, rows: slice) -> "Draws":
        return self._each(lambda values: values if len(values) == 1 else values[rows])

    def grouped(self) -> "Draws":
        """What neighbors share, once: t, dropped and weight (B, M, G, 1), noise (B, M, G, shared, d)."""
        groups = self._each(lambda values: values.unflatten(2, (-1, self.shared)))
        dropped, weight = (values if values is None else values[..., :1] for values in (groups.dropped, groups.weight))
        return Draws(groups.t[..., :1], groups.noise, dropped, weight)

    def slices(self, rows: int) -> list["Draws"]:
        """Slices along the third dimension, of at most so many noises in all where that can be."""
        size = max(1, rows // self.noise[:, :, 0, ..., 0].numel())
        count = self.noise.shape[2]
        parts = [(slice(None), slice(None), slice(first, first + size)) for first in range(0, count, size)]
        return [self._each(itemgetter(part)) for part in parts]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        dropped, weight = (values if values is None else change(values) for values in (self.dropped, self.weight))
        return Draws(change(self.t), change(self.noise), dropped, weight, self.shared)


class Drawing(nn.Module):
    """Makes the draws of a head's loss.

    Args:
        scheme: "independent" (the paper's); "shared": all tokens of all images share K timesteps, one from each of K
            equal shares of the density, so that what depends on time alone is computed K times; or "paired": `_paired`.
            The expectation of the loss is the same.
        density: probability (1000,) of each timestep in the loss.
        proposal: the same in paired draws, which are weighted to make up for it.
        condition_dropout: probability of a zero condition.

    Raises:
        UserError: paired draws that find no partner.
    """

    def __init__(self, scheme: str, repeats: int, density: Tensor, proposal: Tensor, condition_dropout: float):
        super().__init__()
        check_repeats(repeats, scheme, condition_dropout)
        self.scheme, self.repeats, self.condition_dropout = scheme, repeats, condition_dropout
        self.even = bool((density == density[0]).all())
        for name, values in (
            ("cumulated", density.float().cumsum(0)),
            ("proposed", proposal.float().cumsum(0)),
            ("weight", (density / proposal).float()),
        ):
            self.register_buffer(name, values, persistent=False)

    def forward(
        self, images: int, tokens: int, token_dim: int, generator: torch.Generator | None, device: torch.device
    ) -> Draws:
        """Draws for the loss of so many images, on the device, which is also the generator's."""
        shape = (images, tokens, self.repeats)

        def uniform(*size: int) -> Tensor:
            return torch.rand(size, generator=generator, device=device)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, token_dim, generator=generator, device=device)

        if self.scheme == "paired":
            return self._paired(shape, uniform, normal)
        noise = normal(*shape)
        if self.scheme == "shared":
            t = _stratified(self.cumulated, uniform(1, 1, self.repeats))
        elif self.even:
            t = torch.randint(NUM_TIMESTEPS, shape, generator=generator, device=device)
        else:
            t = _inverse(self.cumulated, uniform(*shape))
        return Draws(t, noise, uniform(*shape) < self.condition_dropout if self.condition_dropout else None)

    def _paired(self, shape: tuple[int, int, int], uniform: Random, normal: Random) -> Draws:
        """Draws whose weighted mean loss has the same expectation, and a gradient that varies far less.

        They come two and two: one timestep, one noise with both signs. Of a token's pairs a fixed number have the zero
        condition. The timesteps are drawn from the proposal, one from each of as many equal shares of it as there are
        pairs with the condition, and so for those without.
        """
        *tokens, repeats = shape
        pairs = repeats // 2
        without = min(max(round(pairs * self.condition_dropout), int(self.condition_dropout > 0)), pairs - 1)
        given = pairs - without

        t = torch.cat([_stratified(self.proposed, uniform(*tokens, count)) for count in (given, without)], -1)
        dropped = (torch.arange(pairs, device=t.device) >= given).expand(t.shape)
        # A pair counts by the probability of its condition, the share of timesteps that it stands for, and the
        # inverse of how much more often than it should its timestep is drawn.
        count = torch.where(dropped, self.condition_dropout / max(without, 1), (1 - self.condition_dropout) / given)
        weight = pairs * count * self.weight.to(t.device)[t]
        noise = normal(*tokens, pairs)
        noise = torch.stack([noise, -noise], -2).flatten(-3, -2)
        t, dropped, weight = (values.repeat_interleave(2, -1) for values in (t, dropped, weight))
        return Draws(t, noise, dropped, weight, shared=2)


def _inverse(cumulated: Tensor, place: Tensor) -> Tensor:
    """Timesteps at places from 0 to 1 of a cumulated density (1000,)."""
    return torch.searchsorted(cumulated.to(place.device), place).clamp(max=NUM_TIMESTEPS - 1)


def _stratified(cumulated: Tensor, uniform: Tensor) -> Tensor:
    """Timesteps (..., n), one from each of n equal shares of a density, for uniform random numbers."""
    count = uniform.shape[-1]
    return _inverse(cumulated, (uniform + torch.arange(count, device=uniform.device)) / max(count, 1))


def check_repeats(repeats: int, timesteps: str, condition_dropout: float) -> None:
    if timesteps not in SCHEMES:
        raise UserError(f"--timesteps {timesteps}: choose one of {', '.join(SCHEMES)}")
    least = 4 if condition_dropout > 0 else 2
    if timesteps == "paired" and (repeats % 2 or repeats < least):
        raise UserError(
            f"--repeats {repeats}: --timesteps paired draws two and two, with the condition and without; "
            f"set it to {max(least, repeats + repeats % 2)}"
        )
