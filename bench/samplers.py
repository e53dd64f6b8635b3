"""Accuracy of GenDD runs' head read-out against its time, under several samplers, in one run: a table a run, a picture.

    python bench/samplers.py RUN... --output FOLDER

The deterministic settings are measured on all test images, the noisy ones, the paper's among them, on the first 1,000.
Times are CPU time of one thread for the whole read-out, backbone, sampling and classifier: the backbone's, which all
settings share, is measured once.
"""

import dataclasses
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from machine import describe
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import seconds

from gendd.checkpoint import load_weights, read_weights
from gendd.config import SamplingConfig
from gendd.data import Data
from gendd.distributed import World, autocast, resolve_precision
from gendd.networks import pooled_feature
from gendd.programs.build import build
from gendd.randomness import BatchPlan, generator
from gendd.reporting.pictures import COLOURS, DPI, GRID, NORMAL, SMALL, WIDTH
from gendd.runs import saved_config
from gendd.student import Student
from gendd_cifar.data import EVAL_BATCH
from gendd_cifar.tree import TREE

CPU = torch.device("cpu")
NOISY = [
    SamplingConfig("ancestral", steps=100, num_samples=5),
    SamplingConfig("ancestral", steps=100),
    SamplingConfig("ddim", steps=100),
    SamplingConfig("ddim", steps=10),
]
STARTS, STEPS = (950, 900, 850, 800, 600), (1, 2, 4, 8)
QUICK = [SamplingConfig(steps=steps, start=start) for start in STARTS for steps in STEPS]
GUIDANCES = [SamplingConfig(guidance=guidance) for guidance in (1.0, 1.5, 2.5, 3.0)]
NOISY_BATCHES = 1000 // EVAL_BATCH


@dataclass(frozen=True)
class Config:
    """Accuracy of GenDD runs' head read-out against its time."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders."""
    output: Path = Path("docs/results/samplers")
    """Folder of the tables and the picture."""


@dataclass(frozen=True)
class Batch:
    """Conditions (B, D_s) and labels (B,) of some images, and the seconds that the backbone took for them."""

    conditions: torch.Tensor
    labels: torch.Tensor
    seconds: float


@dataclass(frozen=True)
class Measured:
    """Top-1 (percent), and milliseconds an image: median, least and greatest over batches."""

    sampling: SamplingConfig
    top1: float
    times: tuple[float, float, float]
    images: int


@torch.no_grad()
def main(config: Config) -> None:
    torch.set_num_threads(1)
    config.output.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(1.5 * WIDTH, 3.4), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(config.runs), squeeze=False)[0]
    precision = resolve_precision("auto", CPU)
    lines = ["# Samplers", "", f"{describe()}, {precision}; batches of {EVAL_BATCH} test images; CPU time."]
    for run, axes in zip(config.runs, panels, strict=True):
        title, student, data = read(run)
        # Not before the weights are read: autocast would keep its copies of the initial ones.
        with autocast(precision, CPU):
            batches, probe = conditions(student, data)
            rows = [measure(student, sampling, batches[:NOISY_BATCHES]) for sampling in NOISY]
            rows += [measure(student, sampling, batches) for sampling in (*QUICK, *GUIDANCES)]
        lines += ["", f"## {title}", "", f"Linear probe {probe:.2f} %.", "", *table(rows)]
        draw(axes, title, rows, probe)
    panels[0].set_ylabel("top-1 (%)", fontsize=NORMAL)
    panels[-1].legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    (config.output / "README.md").write_text("\n".join(lines) + "\n")
    figure.savefig(config.output / "samplers.png")


def read(run: Path) -> tuple[str, Student, Data]:
    """A run in words, its student, and its data."""
    settings = dataclasses.replace(saved_config(run, TREE.train_config), student_weights=None, after=None)
    tensors = read_weights(run, "run")
    built = build(TREE, settings, TREE.summarize(settings).num_classes, CPU, missing=[], trained=tensors)
    student = built.task.get_eval_model()
    load_weights(student, tensors, "run", str(run))
    built.task.eval()
    data = TREE.open_data(settings, BatchPlan(seed=0, batch=1), World(0, 1, 0, CPU), built.student.network)
    labels = "no labels" if settings.unlabeled else f"contraction {settings.contraction:g}"
    return f"{settings.teacher} > {settings.student}, {labels}, width {settings.width}", student, data


def conditions(student: Student, data: Data) -> tuple[list[Batch], float]:
    """Of all test images; and the linear probe's top-1."""
    batches, hits, feature = [], 0, None
    for _, images, labels in data.eval_batches():

        def backbone(images=images) -> None:
            nonlocal feature
            feature = pooled_feature(student.backbone, images)

        taken = seconds(backbone, time.process_time)
        batches.append(Batch(student.norm(feature), labels, taken))
        hits += (student.backbone.get_classifier()(feature).argmax(-1) == labels).sum().item()
    return batches, 100 * hits / data.eval_size


def measure(student: Student, sampling: SamplingConfig, batches: list[Batch]) -> Measured:
    hits, taken, logits = 0, [], None
    for number, batch in enumerate(batches):

        def read_out(batch=batch, number=number) -> None:
            nonlocal logits
            noise = generator("cpu", 0, "evaluation", number)
            logits = student.classifier(
                student.head.sample(batch.conditions, generator=noise, **asdict(sampling)).mean(1)
            )

        taken.append(seconds(read_out, time.process_time))
        hits += (logits.argmax(-1) == batch.labels).sum().item()
    size, images = len(batches[0].labels), sum(len(batch.labels) for batch in batches)
    backbone = statistics.median(batch.seconds for batch in batches)
    times = tuple(1000 * (backbone + head) / size for head in (statistics.median(taken), min(taken), max(taken)))
    return Measured(sampling, 100 * hits / images, times, images)


def table(rows: list[Measured]) -> list[str]:
    lines = ["| sampler | steps | samples | guidance | start | top-1 | images | ms an image, median (min-max) |"]
    lines.append("|---" * 8 + "|")
    for row in rows:
        sampling, (median, least, most) = row.sampling, row.times
        start = sampling.start if sampling.sampler == "deterministic" else ""
        cells = (sampling.sampler, sampling.steps, sampling.num_samples, f"{sampling.guidance:g}", start)
        time = f"{median:.3g} ({least:.3g}-{most:.3g})"
        lines.append(f"| {' | '.join(map(str, cells))} | {row.top1:.2f} | {row.images} | {time} |")
    return lines


def draw(axes: Axes, title: str, rows: list[Measured], probe: float) -> None:
    """Accuracy against time: a line a start, its dots 1, 2, 4 and 8 steps; the default in a ring."""
    for start, colour in zip(STARTS, COLOURS, strict=False):
        line = [row for row in rows if row.sampling in QUICK and row.sampling.start == start]
        axes.plot(*_points(line), "o-", ms=3, lw=1, color=colour, label=f"from zero at {start}")
    for sampling, marker in zip(NOISY, "s^vD", strict=True):
        row = next(row for row in rows if row.sampling == sampling)
        label = f"{sampling.sampler}, {sampling.steps} x {sampling.num_samples} (first {row.images})"
        axes.plot(*_points([row]), marker, ms=5, mfc="none", color="black", label=label)
    default = [row for row in rows if row.sampling == SamplingConfig()]
    axes.plot(*_points(default[:1]), "o", ms=9, mfc="none", color="black", label="default")
    axes.axhline(probe, color="#888888", lw=1, ls=":", label="linear probe")
    axes.set_xscale("log")
    axes.set_xlabel("ms an image", fontsize=NORMAL)
    axes.set_title(title, fontsize=NORMAL, loc="left")
    axes.tick_params(labelsize=SMALL, length=0)
    axes.grid(color=GRID, lw=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _points(rows: list[Measured]) -> tuple[list[float], list[float]]:
    return [row.times[0] for row in rows], [row.top1 for row in rows]


if __name__ == "__main__":
    main(tyro.cli(Config))
