"""Means over an epoch: of the losses, and of the time spent waiting for data. They continue after an interruption."""

import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gendd.core.distributed import World
from gendd.data.batch import Batch

# Name of the number of calls among the sums of `Means`.
COUNT = "count"


class Timed(Iterator[Batch]):
    """The batches of an iterator, with the seconds spent waiting for them, besides earlier ones."""

    def __init__(self, batches: Iterator[Batch], waiting: float):
        self.batches, self.waiting = batches, waiting

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        try:
            return next(self.batches)
        finally:
            self.waiting += time.perf_counter() - begin


class Means:
    """Means of the scalars that a task returns, accumulated on the device.

    Args:
        state: sums of an interrupted epoch, from `state`; empty at the start of an epoch.
    """

    def __init__(self, state: Mapping[str, Tensor], world: World):
        self.world, self.names = world, [name for name in state if name != COUNT]
        # With another number of processes, a call is over another share of the batch.
        own = {name: rows[world.rank] if len(rows) == world.size else rows.mean() for name, rows in state.items()}
        self.count = float(own.get(COUNT, 0))
        self.sums = torch.tensor([float(own[name]) for name in self.names], dtype=torch.float64, device=world.device)

    def add(self, losses: dict[str, Tensor]) -> None:
        if not self.names:
            self.names = [name for name, value in losses.items() if value.dim() == 0]
            self.sums = self.sums.new_zeros(len(self.names))
        with torch.no_grad():
            self.sums += torch.stack([losses[name] for name in self.names])
        self.count += 1

    def total_loss(self) -> Tensor:
        """Return the sum of this process's losses so far, a scalar. It is not finite if one of them was not."""
        return self.sums[self.names.index("loss")]

    def own_loss(self) -> float:
        """Return the mean loss of this process so far."""
        return float(self.total_loss() / self.count)

    def state(self) -> dict[str, Tensor]:
        """Return the sums of each process, (processes,)."""
        rows = self.world.gather(self._stacked()[None]).cpu()
        return {name: column.clone() for name, column in zip([*self.names, COUNT], rows.unbind(1), strict=True)}

    def read(self) -> dict[str, float]:
        """Return the means over all calls and processes."""
        *totals, count = self.world.all_reduce(self._stacked()).tolist()
        return {name: total / count for name, total in zip(self.names, totals, strict=True)}

    def _stacked(self) -> Tensor:
        return torch.cat([self.sums, self.sums.new_full((1,), self.count)])
