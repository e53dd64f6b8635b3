"""A trained GenDD run on its data, for measurements of its gradients."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gendd.data import Batch
from gendd.distributed import World, autocast, resolve_precision
from gendd.programs.open_run import open_run
from gendd.randomness import BatchPlan
from gendd.runs import saved_config
from gendd_cifar.tree import TREE


@dataclasses.dataclass
class TrainedRun:
    """A run folder's student in training mode, on the CPU.

    Args:
        dataset: in place of the run's own path.
        images: of a batch.
        teacher_weights: in place of the run's own path, if given.
    """

    run: Path
    dataset: str
    images: int
    teacher_weights: str = ""

    def __post_init__(self):
        device, settings = torch.device("cpu"), saved_config(self.run, TREE.train_config)
        changed = {"dataset": self.dataset, "batch_size": self.images}
        changed["teacher_weights"] = self.teacher_weights or settings.teacher_weights
        run = open_run(TREE, str(self.run), device, taught=True, **changed)
        self.precision = resolve_precision("auto", device)
        self.settings, self.task = run.settings, run.built.task.train()
        world, plan, network = World(0, 1, 0, device), BatchPlan(0, self.images), run.built.student.network
        classes = self.task.teacher.classifier.out_features
        self.data = TREE.open_training(run.settings, classes, plan, world, network)

    def batches(self, count: int) -> Iterator[tuple[Batch, Tensor]]:
        """Some training batches and their targets f'."""
        for batch in self.data.batches(range(count)):
            with autocast(self.precision, batch.images.device):
                yield batch, self.task.target(self.task.teacher.features(batch), batch.labels)
