"""The random numbers of the head's loss: timesteps, noise, and dropped conditions.

Shapes: B images, M tokens of width d. A token has K = G n draws: G timesteps with n noises each. Antithetic draws have
n = 2 noises of opposite sign, all others n = 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.diffusion.schedule import NUM_TIMESTEPS

# (*size) -> random numbers.
Random = Callable[..., Tensor]


@dataclass(frozen=True)
class Draws:
    """The random numbers of one loss. All shapes except the noise's may have 1 in place of B, M or G.

    noise: (B, M, G, n, d).
    t: (B, M, G, 1) int64, the timesteps.
    weight: (B, M, G, 1), weight of a draw in the mean.
    dropped: (B, M, G, 1) bool, True for a zero condition; None without dropped conditions.
    """

    noise: Tensor
    t: Tensor
    weight: Tensor
    dropped: Tensor | None = None

    @property
    def count(self) -> int:
        """B x M x K."""
        return self.noise.shape[:-1].numel()

    def images(self, rows: slice) -> "Draws":
        """Return the draws of some of the images."""
        return self._cut(0, rows)

    def slices(self, noises: int) -> Iterator["Draws"]:
        """Yield the draws in parts of at most `noises` noises, with at least one draw per token."""
        images, tokens, groups, signs, _ = self.noise.shape
        size = max(1, noises // (images * tokens * signs))
        if size >= groups:
            yield self
            return
        for first in range(0, groups, size):
            yield self._cut(2, slice(first, first + size))

    def _cut(self, dim: int, part: slice) -> "Draws":
        def cut(values: Tensor | None) -> Tensor | None:
            return values if values is None or values.shape[dim] == 1 else values[(slice(None),) * dim + (part,)]

        return Draws(self.noise[(slice(None),) * dim + (part,)], cut(self.t), cut(self.weight), cut(self.dropped))


class Drawing(nn.Module):
    """Source of the random numbers of a head's loss.

    Args:
        scheme: "independent" (the paper's). "shared": all tokens of all images share K stratified timesteps, so time
            is embedded only K times. "antithetic": pairs of opposite noise. The loss has the same expectation.
        density: probability (1000,) of each timestep in the loss.
        proposal: probability (1000,) of each timestep in antithetic draws. Weights correct the difference to `density`.
        condition_dropout: probability of a zero condition.

    Raises:
        UserError: `repeats` does not work with antithetic draws.
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
        """Draw for the loss of `images` images. The generator must be on the device."""
        shape = (images, tokens, self.repeats, 1)

        def uniform(*size: int) -> Tensor:
            return torch.rand(size, generator=generator, device=device)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, token_dim, generator=generator, device=device)

        if self.scheme == "antithetic":
            return self._antithetic(images, tokens, uniform, normal)
        noise = normal(*shape)
        if self.scheme == "shared":
            t = _stratified(self.cumulated, uniform(1, 1, self.repeats))[..., None]
        elif self.even:
            t = torch.randint(NUM_TIMESTEPS, shape, generator=generator, device=device)
        else:
            t = _inverse(self.cumulated, uniform(*shape))
        dropped = uniform(*shape) < self.condition_dropout if self.condition_dropout else None
        return Draws(noise, t, noise.new_ones(1, 1, 1, 1), dropped)

    def _antithetic(self, images: int, tokens: int, uniform: Random, normal: Random) -> Draws:
        """Draw pairs: one timestep, and one noise with both signs.

        The weighted mean loss has the same expectation, and its gradient varies far less. Per token, a fixed number of
        pairs has the zero condition. Timesteps follow the proposal, stratified separately over the pairs with and
        without the condition.
        """
        pairs = self.repeats // 2
        without = min(max(round(pairs * self.condition_dropout), int(self.condition_dropout > 0)), pairs - 1)
        given = pairs - without

        t = torch.cat([_stratified(self.proposed, uniform(images, tokens, count)) for count in (given, without)], -1)
        dropped = (torch.arange(pairs, device=t.device) >= given).expand(t.shape)
        # Weight of a pair: P(its condition) / share of pairs with this condition, times density / proposal.
        count = torch.where(dropped, self.condition_dropout / max(without, 1), (1 - self.condition_dropout) / given)
        weight = pairs * count * self.weight.to(t.device)[t]
        noise = normal(images, tokens, pairs)
        return Draws(torch.stack([noise, -noise], -2), t[..., None], weight[..., None], dropped[..., None])


def _inverse(cumulated: Tensor, place: Tensor) -> Tensor:
    """Return the timesteps at the quantiles `place` of a cumulated density (1000,)."""
    return torch.searchsorted(cumulated.to(place.device), place).clamp(max=NUM_TIMESTEPS - 1)


def _stratified(cumulated: Tensor, uniform: Tensor) -> Tensor:
    """Return timesteps (..., n) for uniform random numbers: one from each of n strata of equal probability."""
    count = uniform.shape[-1]
    return _inverse(cumulated, (uniform + torch.arange(count, device=uniform.device)) / max(count, 1))


def check_repeats(repeats: int, scheme: str, condition_dropout: float) -> None:
    least = 4 if condition_dropout > 0 else 2
    if scheme == "antithetic" and (repeats % 2 or repeats < least):
        raise InvalidSetting(
            "repeats",
            repeats,
            f"`draw_scheme` antithetic needs an even number, at least {least}; "
            f"set it to {max(least, repeats + repeats % 2)}",
        )
