"""Variance of a training step's gradient over its draws, for each draw scheme and K, on a trained student.

    python bench/gradient_variance.py RUN IMAGES

RUN is a GenDD run on a folder of images, IMAGES that folder. On each of several training batches, the gradient is
computed for many draws of timesteps, noise and dropped conditions. Its variance over the draws is summed over the
parameters, separately for the student (backbone and LayerNorm) and the head. It is reported relative to the variance
with the published draws on the same batch: median, minimum and maximum over the batches.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from machine import describe
from trained import TrainedRun

from gendd.core.distributed import autocast
from gendd.core.seeding import generator
from gendd.diffusion.draws import Drawing

PUBLISHED = ("independent", 30)
SETTINGS = [
    PUBLISHED,
    *(("shared", repeats) for repeats in (12, 8)),
    *(("antithetic", repeats) for repeats in (12, 8, 6)),
]


@dataclass(frozen=True)
class Config:
    """Variance of a training step's gradient over its draws."""

    run: Annotated[Path, tyro.conf.Positional]
    dataset: Annotated[str, tyro.conf.Positional]
    images: int = 32
    """Images per batch."""
    batches: int = 4
    """Batches of images."""
    draws: int = 48
    """Gradients per setting and batch."""
    teacher_weights: str = ""
    """Teacher checkpoint. The run's if not given."""


class Moments:
    """Running mean and variance of vectors."""

    def __init__(self):
        self.count, self.total, self.square = 0, 0, 0.0

    def add(self, vector: torch.Tensor) -> None:
        vector = vector.double()
        self.count, self.total = self.count + 1, self.total + vector
        self.square += vector.square().sum().item()

    def variance(self) -> float:
        """Return the variance, summed over the vector's elements."""
        return (self.square - (self.total.square().sum() / self.count).item()) / (self.count - 1)


def main(config: Config) -> None:
    run = TrainedRun(config.run, config.dataset, config.images, config.teacher_weights)
    variances, method = measure(run, config), run.settings.method
    print(
        f"{config.run.parts[-2]}, trained with K {method.repeats}, contraction {method.contraction:g}, width "
        f"{method.width}, {method.prediction} prediction, {method.timestep_density} timesteps; {config.batches} "
        f"batches of {config.images} images, {config.draws} gradients per setting; {describe()}\n"
    )
    print("| draws | K | variance, student | variance, head |\n|---|---|---|---|")
    for (scheme, repeats), values in variances.items():
        ratios = [
            [one / other for one, other in zip(*pair, strict=True)]
            for pair in zip(values, variances[PUBLISHED], strict=True)
        ]
        cells = (f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})" for each in ratios)
        print(f"| {scheme} | {repeats} | {' | '.join(cells)} |")


def measure(run: TrainedRun, config: Config) -> dict[tuple[str, int], list[list[float]]]:
    """Return the variance on every batch, by (scheme, K), as one list for the student and one for the head."""
    task, student = run.task, run.task.trainable_module
    head, objective, device = task.head, task.head.objective, torch.device("cpu")
    parts = [[*student.backbone.parameters(), *student.norm.parameters()], [*head.parameters()]]
    variances = {setting: [[] for _ in parts] for setting in SETTINGS}
    for step, (batch, target) in enumerate(run.batches(config.batches)):
        for scheme, repeats in SETTINGS:
            densities = (objective.timestep_density(), objective.proposal())
            head.drawing = Drawing(scheme, repeats, *densities, run.settings.method.condition_dropout)
            moments = [Moments() for _ in parts]
            for number in range(config.draws):
                draws = head.draw(config.images, generator(device, scheme, repeats, step, number))
                student.zero_grad()
                with autocast(run.precision, device):
                    share = task.mixup_share(batch.random, device)
                    loss = student(batch.images, target, batch.labels, share, draws)["loss"]
                loss.backward()
                for parameters, moment in zip(parts, moments, strict=True):
                    moment.add(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
            for values, moment in zip(variances[scheme, repeats], moments, strict=True):
                values.append(moment.variance())
    return variances


if __name__ == "__main__":
    main(tyro.cli(Config))
