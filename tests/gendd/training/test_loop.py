"""A step of the training loop: the random numbers of dropout, and the moving average of the weights."""

from types import SimpleNamespace

import pytest
import torch
from programs import cifar_config
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from gendd.core.distributed import World
from gendd.core.stopping import Stopping
from gendd.data.batch import Batch
from gendd.methods.base import Task
from gendd.runs.folder import RunFolder
from gendd.training.loop import Training
from gendd.training.means import Means

BATCH = Batch(torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), None)


class Dropping(Task):
    """A task that draws from torch's generator, as dropout does."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.drawn = torch.rand(16)
        return {"loss": self.trainable_module(batch.images).square().sum()}


@pytest.fixture
def training(tmp_path):
    """Return a function: make a training of one linear layer in a process of two."""

    def make(seed: int = 0, rank: int = 0, **options: str) -> Training:
        torch.manual_seed(0)
        task = Dropping(nn.Linear(3, 2))
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        config = cifar_config("--dataset", "digits", "--seed", str(seed), *words, method="classification")
        if config.optimizer.ema_decay:
            task.start_average(config.optimizer.ema_decay)
        optimizer = torch.optim.SGD(task.parameters(), 0.1)
        world, data = World(rank, 1, rank, torch.device("cpu")), SimpleNamespace(steps_per_epoch=10)
        return Training(
            config, task, data, optimizer, RunFolder(tmp_path), world, "fp32",
            evaluate=lambda limit: None, record={}, keep=lambda epoch: None, stopping=Stopping(),
        )  # fmt: skip

    return make


def test_dropout_follows_seed_step_and_process(training):
    def drawn(step: int = 3, **key: int) -> tuple[float, ...]:
        made = training(**key)
        made.step = step
        torch.manual_seed(step)
        made.train_step([BATCH], Means({}, made.world))
        return tuple(made.task.drawn.tolist())

    first, *others = drawn(), drawn(step=4), drawn(seed=1), drawn(rank=1)
    assert drawn() == first and len({first, *others}) == 4


def test_average_of_the_weights_follows_the_steps(training):
    made = training(ema_decay="0.5")
    average = ModelEmaV3(made.task.model(), decay=0.5, use_warmup=True)
    for step in range(5):
        made.train_step([BATCH], Means({}, made.world))
        made.step = step + 1
        average.update(made.task.model(), step=step)
    trained, averaged = made.task.model().weight, made.task.model(averaged=True).weight
    torch.testing.assert_close(averaged, average.module.weight, rtol=0, atol=0)
    assert not torch.allclose(averaged, trained)
