"""Plot the cost of a training step and of the head's inference against their settings: docs/bench/growth.png.

    python bench/growth.py

It measures resnet8x4 and its head on random images, without a reference. Each panel varies the setting in its title;
the others keep the values below. Points are medians of several calls after an uncounted one; bars show minimum and
maximum.
"""

import statistics
from collections.abc import Callable

import torch
from inference import build_student, head_logits
from machine import describe, the_device
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import take_turns
from suite import FOLDER
from torch import nn

from gendd.core.distributed import autocast, resolve_precision
from gendd.core.files import rewrite
from gendd.diffusion.head import PAPER
from gendd.distillation.student import Student
from gendd.methods.options import NOISE_OUTPUT, SamplingOptions
from gendd.reporting.pictures import DPI, GRID, NORMAL, SMALL, WIDTH

STUDENT, TOKENS, CLASSES, BATCH, DRAWS, HEAD_WIDTH = "resnet8x4", 4, 100, 64, 12, 1024
IMAGES, CALLS = 500, 3
TRAINING = {
    "K, draws per token": ("repeats", (2, 6, 12, 30, 60)),
    "tokens M": ("tokens", (1, 2, 4, 8, 16)),
    "batch": ("batch", (16, 32, 64, 128)),
    "head's width": ("width", (256, 512, 1024, 2048)),
}
INFERENCE = {
    "deterministic steps": ("steps", (1, 2, 4, 8, 16)),
    "head's width": ("width", (256, 512, 1024, 2048)),
    "tokens M": ("tokens", (1, 2, 4, 8, 16)),
    "classes": ("classes", (10, 100, 1000, 10_000)),
}


def main() -> None:
    print(describe())
    figure = Figure(figsize=(1.5 * WIDTH, 5), dpi=DPI, layout="constrained")
    panels = figure.subplots(2, 4)
    for row, settings, work, unit in (
        (panels[0], TRAINING, step, "ms per training step"),
        (panels[1], INFERENCE, inference, f"ms for inference on {IMAGES} images"),
    ):
        for axes, (title, (name, values)) in zip(row, settings.items(), strict=True):
            times = take_turns([work(**{name: value}) for value in values], CALLS)
            milliseconds = [[1000 * taken for taken in each] for each in times]
            draw(axes, title, values, milliseconds)
            medians = [
                f"{value}: {statistics.median(each):.0f}" for value, each in zip(values, milliseconds, strict=True)
            ]
            print(f"{unit}, {title}:", ", ".join(medians), flush=True)
        row[0].set_ylabel(unit, fontsize=NORMAL)
    figure.suptitle(
        f"{STUDENT}, batch {BATCH}, K {DRAWS}, {TOKENS} tokens, width {HEAD_WIDTH}, "
        f"{NOISE_OUTPUT['sampling_steps']} steps; {describe()}; {CALLS} calls",
        fontsize=SMALL,
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    rewrite(FOLDER / "growth.png", figure.savefig)


def step(
    repeats: int = DRAWS, tokens: int = TOKENS, batch: int = BATCH, width: int = HEAD_WIDTH
) -> Callable[[], object]:
    """Return a function that computes loss and gradients of the student and its head, without the teacher."""
    device, student = _student(tokens, CLASSES, width, repeats=repeats, draw_scheme="shared")
    student.train().requires_grad_(True)
    images, target = _images(batch), torch.randn(batch, student.head.feature_dim, device=device)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def work() -> None:
        with autocast(resolve_precision("auto", device), device):
            loss = student(images, target, labels)["loss"]
        loss.backward()
        student.zero_grad(set_to_none=True)

    return work


def inference(
    steps: int = NOISE_OUTPUT["sampling_steps"], width: int = HEAD_WIDTH, tokens: int = TOKENS, classes: int = CLASSES
) -> Callable[[], object]:
    device, student = _student(tokens, classes, width)
    images, sampling = _images(IMAGES), SamplingOptions(**NOISE_OUTPUT | {"sampling_steps": steps})

    @torch.no_grad()
    def work() -> None:
        with autocast(resolve_precision("auto", device), device):
            head_logits(student, images, sampling)

    return work


def _student(tokens: int, classes: int, width: int, **head) -> tuple[torch.device, Student]:
    device = the_device()
    student = build_student(STUDENT, nn.Linear(64 * tokens, classes), width=width, **PAPER | head)
    return device, student.to(device, memory_format=torch.channels_last)


def _images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, device=the_device()).to(memory_format=torch.channels_last)


def draw(axes: Axes, title: str, values: tuple[int, ...], milliseconds: list[list[float]]) -> None:
    medians = [statistics.median(taken) for taken in milliseconds]
    bars = [
        [median - min(taken) for median, taken in zip(medians, milliseconds, strict=True)],
        [max(taken) - median for median, taken in zip(medians, milliseconds, strict=True)],
    ]
    axes.errorbar(values, medians, yerr=bars, fmt="o-", ms=3.5, lw=1.2, capsize=2)
    axes.set_title(title, fontsize=NORMAL, loc="left")
    if values[-1] > 100 * values[0]:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=SMALL, length=0)
    axes.grid(color=GRID, lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    main()
