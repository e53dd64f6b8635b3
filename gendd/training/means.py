"""Means over an epoch: of the losses, and of the time spent waiting for data. They continue after an interruption."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

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
        self.world = world
        self.sums: dict[str, Any] = {}
        for name, rows in state.items():
            # With another number of processes, a call is over another share of the batch.
            own = rows[world.rank] if len(rows) == world.size else rows.mean()
            self.sums[name] = own.to(world.device)

    def add(self, losses: dict[str, Tensor]) -> None:
        scalars = {name: value.detach().double() for name, value in losses.items() if value.dim() == 0}
        for name, value in (scalars | {COUNT: 1}).items():
            self.sums[name] = self.sums.get(name, 0) + value

    def own_loss(self) -> float:
        """Return the mean loss of this process so far."""
        return float(self.sums["loss"] / self.sums[COUNT])

    def state(self) -> dict[str, Tensor]:
        """Return the sums of each process, (processes,)."""
        rows = self.world.gather(self._stacked()[None]).cpu()
        return {name: column.clone() for name, column in zip(self.sums, rows.unbind(1), strict=True)}

    def read(self) -> dict[str, float]:
        """Return the means over all calls and processes."""
        totals = dict(zip(self.sums, self.world.all_reduce(self._stacked()).tolist(), strict=True))
        count = totals.pop(COUNT)
        return {name: total / count for name, total in totals.items()}

    def _stacked(self) -> Tensor:
        numbers = (torch.as_tensor(value, dtype=torch.float64) for value in self.sums.values())
        return torch.stack([number.to(self.world.device) for number in numbers])
