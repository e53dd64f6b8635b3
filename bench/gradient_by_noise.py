"""Gradient of GenDD's loss with respect to the condition, by timestep: the noise levels that the backbone learns from.

    python bench/gradient_by_noise.py RUN DATASET [--teacher-weights FILE]

RUN is a run folder of gendd, DATASET the folder of its images. For each tenth of the timesteps, the loss of a batch is
computed over many draws, without feature mixup or dropped conditions. Its gradient with respect to the conditions z is
the backbone's training signal. `signal` is the norm of the gradient's mean over the draws. It is the square root of the
inner product of two independent halves, which excludes the noise of the draws. Shares are weighted by the training's
timestep density.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from machine import describe
from torch import Tensor
from trained import TrainedRun

from gendd.core.distributed import autocast
from gendd.core.seeding import generator
from gendd.diffusion.draws import Draws
from gendd.diffusion.schedule import NUM_TIMESTEPS
from gendd.networks.features import pooled_feature

TENTHS = 10


@dataclass(frozen=True)
class Config:
    """Gradient of GenDD's loss with respect to the condition, by timestep."""

    run: Annotated[Path, tyro.conf.Positional]
    dataset: Annotated[str, tyro.conf.Positional]
    images: int = 128
    """Images per batch."""
    batches: int = 4
    """Batches of images."""
    draws: int = 32
    """Draws of timestep and noise per token in each half of each tenth."""
    teacher_weights: str = ""
    """Teacher checkpoint. The run's if not given."""


def main(config: Config) -> None:
    run = TrainedRun(config.run, config.dataset, config.images, config.teacher_weights)
    signals = measure(run, config)
    settings, density = run.settings.method, run.task.head.objective.timestep_density().view(TENTHS, -1).sum(-1)
    print(
        f"{config.run.parts[-2]}: {settings.prediction} prediction, {settings.timestep_density} timesteps, "
        f"{settings.loss_weighting} weight; {config.batches} batches of {config.images} images; {describe()}\n"
    )
    print("| timesteps | share of draws | signal: median (least-greatest) | share of the gradient |\n|---|---|---|---|")
    medians = [statistics.median(values) for values in signals]
    total = sum(share * median for share, median in zip(density.tolist(), medians, strict=True))
    for tenth, (values, median, share) in enumerate(zip(signals, medians, density.tolist(), strict=True)):
        span = NUM_TIMESTEPS // TENTHS
        print(
            f"| {tenth * span}-{(tenth + 1) * span - 1} | {share:.0%} | {median:.3g} ({min(values):.3g}-"
            f"{max(values):.3g}) | {share * median / total:.0%} |"
        )


def measure(run: TrainedRun, config: Config) -> list[list[float]]:
    """Return the signal of every batch for each tenth of the timesteps."""
    student, head = run.task.trainable_module, run.task.head
    signals: list[list[float]] = [[] for _ in range(TENTHS)]
    for step, (batch, target) in enumerate(run.batches(config.batches)):
        with torch.no_grad(), autocast(run.precision, batch.images.device):
            z = student.norm(pooled_feature(student.backbone, batch.images)).float()
        for tenth, values in enumerate(signals):
            halves = []
            for half in range(2):
                random = generator("cpu", "gradient by noise", step, tenth, half)
                halves.append(_gradient(head, z, target, _draws(head, config, tenth, random), run.precision))
            values.append((halves[0] * halves[1]).sum().clamp(min=0).sqrt().item())
    return signals


def _draws(head: torch.nn.Module, config: Config, tenth: int, random: torch.Generator) -> Draws:
    shape, span = (config.images, head.num_tokens, config.draws), NUM_TIMESTEPS // TENTHS
    t = torch.randint(tenth * span, (tenth + 1) * span, shape, generator=random)
    return Draws(t, torch.randn(*shape, head.token_dim, generator=random), torch.zeros(shape, dtype=torch.bool))


def _gradient(head: torch.nn.Module, z: Tensor, target: Tensor, draws: Draws, precision: str) -> Tensor:
    z = z.clone().requires_grad_()
    with autocast(precision, z.device):
        loss = head(z, target, draws)["loss"]
    return torch.autograd.grad(loss, z)[0]


if __name__ == "__main__":
    main(tyro.cli(Config))
