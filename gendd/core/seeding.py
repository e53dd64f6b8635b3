"""Random numbers that depend on seed, step and purpose, not on the process.

Every process draws for the whole global batch and keeps its rows. One process and many thus train on the same crops,
noise and timesteps, and a resumed run does not need a saved generator state.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def generator(device: torch.device | str, *key: int | str) -> torch.Generator:
    """Return a generator seeded by a key such as (seed, "crop", step)."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class StepRandom:
    """The random numbers of one micro-batch of a training step: `rows` of a global batch of `batch` images."""

    seed: int
    step: int
    batch: int
    rows: slice

    def generator(self, purpose: str, device: torch.device | str) -> torch.Generator:
        return generator(device, self.seed, purpose, self.step)


@dataclass(frozen=True)
class BatchPlan:
    """Division of a global batch over `world` processes, with `grad_accum_steps` micro-batches per process.

    `rank` is the current process; `batch` must be divisible by world x grad_accum_steps.
    """

    seed: int
    batch: int
    rank: int = 0
    world: int = 1
    grad_accum_steps: int = 1

    @property
    def micro_batch_size(self) -> int:
        return self.batch // (self.world * self.grad_accum_steps)

    def micro_batches(self, step: int) -> Iterator[StepRandom]:
        """Yield this process's micro-batches of a step, in order."""
        for i in range(self.grad_accum_steps):
            first = (i * self.world + self.rank) * self.micro_batch_size
            yield StepRandom(self.seed, step, self.batch, slice(first, first + self.micro_batch_size))


class Shuffled:
    """The numbers 0 to size - 1, in a new random order in each pass.

    Each pass leaves out the last numbers that do not fill a batch.
    """

    def __init__(self, size: int):
        self.size, self.number = size, -1
        # Half the memory of int64, for the same order.
        self.order = torch.empty(0, dtype=torch.int32)

    def locate(self, random: StepRandom) -> tuple[int, Tensor]:
        """Return the pass that a micro-batch belongs to, and the indices (B,) of its images."""
        number, position = divmod(random.step, self.size // random.batch)
        if number != self.number:
            self.number = number
            noise = generator("cpu", random.seed, "order", number)
            self.order = torch.randperm(self.size, generator=noise, dtype=torch.int32)
        return number, self.order[position * random.batch :][random.rows].long()
