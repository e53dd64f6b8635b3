"""Means of the losses of an epoch, also after an interruption, and the time spent waiting for data."""

import pytest
import torch

from gendd.core.distributed import World
from gendd.training import means
from gendd.training.means import Means, Timed

ALONE = World(0, 1, 0, torch.device("cpu"))


def losses(loss: float, mse: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "mse": torch.tensor(mse), "output": torch.zeros(2, 3)}


def test_means_are_those_of_the_scalars_of_all_calls():
    found = Means({}, ALONE)
    for loss, mse in ((1.0, 4.0), (2.0, 8.0), (6.0, 0.0)):
        found.add(losses(loss, mse))
    assert found.read() == {"loss": 3, "mse": 4} and found.own_loss() == 3
    assert found.total_loss() == 9


def test_means_continue_after_an_interruption():
    before = Means({}, ALONE)
    before.add(losses(1.0, 4.0))
    before.add(losses(2.0, 8.0))
    after = Means(before.state(), ALONE)
    after.add(losses(6.0, 0.0))
    assert after.read() == {"loss": 3, "mse": 4}


@pytest.mark.parametrize(("rank", "size", "mean"), [(0, 2, 2.0), (1, 2, 5.0), (0, 1, 3.5)])
def test_process_continues_with_its_own_sums(rank, size, mean):
    """If the number of processes changed, a process takes the mean of all sums."""
    state = {"loss": torch.tensor([4.0, 10.0]), "count": torch.tensor([2.0, 2.0])}
    assert Means(state, World(rank, size, rank, ALONE.device)).own_loss() == mean


def test_waiting_time_is_that_of_the_batches(monkeypatch):
    """Each batch takes 3 s, the training between two batches 10 s, and the end of the batches 1 s."""
    now = [0.0]
    monkeypatch.setattr(means.time, "perf_counter", lambda: now[0])

    def batches():
        for number in range(4):
            now[0] += 3
            yield number
        now[0] += 1

    timed = Timed(batches(), waiting=5.0)
    for _ in timed:
        now[0] += 10
    assert timed.waiting == 5 + 4 * 3 + 1
