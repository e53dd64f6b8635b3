"""A training of resnet56 > resnet20 on the digits, step by step, without checkpoints and evaluations."""

from collections.abc import Iterator
from pathlib import Path

import torch
from programs import cifar_config

from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.core.stopping import Stopping
from gendd.data.batch import Batch
from gendd.runs.experiment import build
from gendd.runs.folder import RunFolder
from gendd.training.compiled import compile_options
from gendd.training.loop import Training
from gendd.training.means import Means
from gendd.training.optim import create_optimizer
from gendd_cifar.family import FAMILY

BATCH = 16


class Steps:
    """The steps of a training with Muon; a call takes the next one, from the augmentation to the means."""

    def __init__(self, method: str, device: torch.device, folder: Path, *flags: str):
        networks = ["--teacher", "resnet56", "--teacher-weights", "random", "--student", "resnet20"]
        words = ["--dataset", "digits", *networks, "--batch-size", str(BATCH), "--optimizer", "muon", *flags]
        config, world = cifar_config(*words, method=method), World(0, 1, 0, device)
        built = build(FAMILY, config, 10, device)
        plan = BatchPlan(0, BATCH)
        data = FAMILY.access.open_training(config, 10, plan, world, built.student.network)
        self.task = built.task.train()
        self.optimizer = create_optimizer(self.task.trainable_module, config.optimizer, self.task.head)
        if config.run.compile:
            self.task.compile(**compile_options(config, world))
            self.optimizer.compile(**compile_options(config, world))
        if config.optimizer.ema_decay:
            self.task.start_average(config.optimizer.ema_decay)
        self.training = Training(
            config, self.task, data, self.optimizer, RunFolder(folder), world, "fp32",
            evaluate=lambda limit: None, record={}, keep=lambda epoch: None, stopping=Stopping(),
        )  # fmt: skip
        self.means = Means({}, world)
        self.batches: Iterator[Batch] = data.batches(range(data.steps_per_epoch))

    def __call__(self) -> None:
        self.training.train_step([next(self.batches)], self.means)
        self.training.step += 1
