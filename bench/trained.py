"""Open a trained GenDD run with its data, to measure its gradients."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gendd.core.distributed import World, autocast, resolve_precision
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.runs.experiment import load
from gendd.runs.folder import RunFolder
from gendd_cifar.family import FAMILY


@dataclasses.dataclass
class TrainedRun:
    """A run's student in training mode, on the CPU.

    Args:
        dataset: path of the data set; replaces the run's.
        images: images per batch.
        teacher_weights: teacher checkpoint; replaces the run's, if given.
    """

    run: Path
    dataset: str
    images: int
    teacher_weights: str = ""

    def __post_init__(self):
        device, settings = torch.device("cpu"), RunFolder(self.run).config(FAMILY)
        changed = {"dataset": self.dataset, "batch_size": self.images}
        changed["teacher_weights"] = self.teacher_weights or settings.networks.teacher_weights
        run = load(self.run, FAMILY, device, with_teacher=True, **changed)
        self.precision = resolve_precision("auto", device)
        self.settings, self.task = run.config, run.task.train()
        world, plan, network = World(0, 1, 0, device), BatchPlan(0, self.images), run.student.network
        classes = self.task.teacher.classifier.out_features
        self.data = FAMILY.access.open_training(run.config, classes, plan, world, network)

    def batches(self, count: int) -> Iterator[tuple[Batch, Tensor]]:
        """Yield training batches and their targets f'."""
        for batch in self.data.batches(range(count)):
            with autocast(self.precision, batch.images.device):
                yield batch, self.task.target(self.task.teacher.features(batch), batch.labels)
