"""A trained GenDD run on its data, for measurements of its gradients."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gendd.checkpoint import load_weights, read_weights
from gendd.config import TrainConfig
from gendd.data import Batch
from gendd.distributed import World, autocast, resolve_precision
from gendd.methods.gendd import GenDDTask
from gendd.programs.build import build
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
        settings, device = saved_config(self.run, TREE.train_config), torch.device("cpu")
        self.settings: TrainConfig = dataclasses.replace(
            settings,
            dataset=self.dataset,
            teacher_weights=self.teacher_weights or settings.teacher_weights,
            batch_size=self.images,
            student_weights=None,
            after=None,
        )
        self.precision = resolve_precision("auto", device)
        classes = TREE.summarize(self.settings).num_classes
        self.task: GenDDTask = build(TREE, self.settings, classes, device, precision=self.precision).task.train()
        load_weights(self.task.get_eval_model(), read_weights(self.run, "RUN"), "RUN", str(self.run))
        world = World(0, 1, 0, device)
        self.data = TREE.open_data(self.settings, BatchPlan(0, self.images), world, self.task.trainable_module.backbone)

    def batches(self, count: int) -> Iterator[tuple[Batch, Tensor]]:
        """Some training batches and their targets f'."""
        for batch in self.data.train_batches(range(count)):
            with autocast(self.precision, batch.images.device):
                yield batch, self.task.target(self.task.teacher.features(batch), batch.labels)
