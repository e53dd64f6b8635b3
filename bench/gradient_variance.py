"""Variance of a training step's gradient over its draws, against K, for each scheme of draws, on a trained student.

    python bench/gradient_variance.py RUN IMAGES

RUN is a GenDD run on a folder of images, IMAGES that folder. Some batches of its training images, many draws of
timesteps, noise and dropped conditions each: the variance is that of the gradient over the draws alone, summed over the
parameters, of the student (backbone and LayerNorm) and of the head apart, relative to the published draws' on the same
batch; median, least and greatest over the batches.
"""

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from machine import describe

from gendd.checkpoint import load_weights, read_weights
from gendd.config import TrainConfig
from gendd.distributed import World, autocast, resolve_precision
from gendd.programs.build import build
from gendd.randomness import BatchPlan, generator
from gendd.runs import saved_config
from gendd_cifar.tree import TREE

PUBLISHED = ("independent", 30)
SETTINGS = [
    PUBLISHED,
    *(("stratified", repeats) for repeats in (12, 8)),
    *(("paired", repeats) for repeats in (12, 8, 6)),
]


@dataclass(frozen=True)
class Config:
    """Variance of a training step's gradient over its draws."""

    run: Annotated[Path, tyro.conf.Positional]
    dataset: Annotated[str, tyro.conf.Positional]
    images: int = 32
    """Of a batch."""
    batches: int = 4
    """Of images, each with gradients of its own."""
    draws: int = 48
    """Gradients of each setting and batch."""
    teacher_weights: str = ""
    """The run's own if not given."""


class Moments:
    """Mean and variance of vectors, one at a time."""

    def __init__(self):
        self.count, self.total, self.square = 0, 0, 0.0

    def add(self, vector: torch.Tensor) -> None:
        vector = vector.double()
        self.count, self.total = self.count + 1, self.total + vector
        self.square += vector.square().sum().item()

    def variance(self) -> float:
        """Summed over the vector's elements."""
        return (self.square - (self.total.square().sum() / self.count).item()) / (self.count - 1)


def main(config: Config) -> None:
    device = torch.device("cpu")
    settings = saved_config(config.run, TREE.train_config)
    weights = config.teacher_weights or settings.teacher_weights
    settings = dataclasses.replace(
        settings,
        dataset=config.dataset,
        teacher_weights=weights,
        batch_size=config.images,
        student_weights=None,
        after=None,
    )
    variances = measure(settings, config, device)
    print(
        f"{config.run.parts[-2]}, trained with K {settings.repeats}, contraction {settings.contraction:g}, width "
        f"{settings.width}, {settings.conditioning}; {config.batches} batches of {config.images} images, "
        f"{config.draws} gradients a setting; {describe()}\n"
    )
    print("| draws | K | variance, student | variance, head |\n|---|---|---|---|")
    for (scheme, repeats), values in variances.items():
        ratios = [
            [one / other for one, other in zip(*pair, strict=True)]
            for pair in zip(values, variances[PUBLISHED], strict=True)
        ]
        cells = (f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})" for each in ratios)
        print(f"| {scheme} | {repeats} | {' | '.join(cells)} |")


def measure(settings: TrainConfig, config: Config, device: torch.device) -> dict[tuple[str, int], list[list[float]]]:
    """By (scheme, K), a list each for the student's gradient and the head's: its variance on every batch."""
    world = World(0, 1, 0, device)
    precision = resolve_precision("auto", device)
    summary = TREE.summarize(settings)
    task = build(TREE, settings, summary.num_classes, device, precision=precision).task.train()
    load_weights(task.get_eval_model(), read_weights(config.run, "RUN"), "RUN", str(config.run))
    student, head = task.trainable_module, task.head
    data = TREE.open_data(settings, BatchPlan(0, config.images), world, student.backbone)
    parts = [[*student.backbone.parameters(), *student.norm.parameters()], [*head.parameters()]]
    variances = {setting: [[] for _ in parts] for setting in SETTINGS}
    for batch, (task.random, images, labels) in enumerate(data.train_batches(range(config.batches))):
        with autocast(precision, device):
            target = task.target(task.teacher_feature(images), labels)
        for scheme, repeats in SETTINGS:
            head.timesteps, head.repeats = scheme, repeats
            moments = [Moments() for _ in parts]
            for number in range(config.draws):
                draws = head.draw(config.images, generator(device, scheme, repeats, batch, number))
                student.zero_grad()
                with autocast(precision, device):
                    loss = student(images, target, labels, task.mixup_share(device), draws)["loss"]
                loss.backward()
                for parameters, moment in zip(parts, moments, strict=True):
                    moment.add(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
            for values, moment in zip(variances[scheme, repeats], moments, strict=True):
                values.append(moment.variance())
    return variances


if __name__ == "__main__":
    main(tyro.cli(Config))
