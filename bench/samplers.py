"""Accuracy and images/s of a GenDD run's head read-out under several samplers, in one run.

    python bench/samplers.py RUN

Each setting is measured on the first test images (1,000), those that are quick enough on all as well. Images/s are of
the whole read-out: backbone, sampling, classifier.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from gendd.checkpoint import load_weights, read_weights
from gendd.config import SamplingConfig
from gendd.distributed import World, autocast, hardware, resolve_precision
from gendd.evaluation import ReadOut, Stopwatch, evaluate
from gendd.programs.build import build
from gendd.randomness import BatchPlan
from gendd.runs import saved_config
from gendd.student import Student
from gendd_cifar.tree import TREE

REFERENCE = SamplingConfig("ancestral", steps=100, num_samples=5)
NOISY = [SamplingConfig("ancestral", steps=100), SamplingConfig("ddim", steps=100), SamplingConfig("ddim", steps=10)]
QUICK = [SamplingConfig(steps=steps, start=start) for steps in (1, 2, 4, 8) for start in (950, 900, 800, 700, 600, 500)]
UNGUIDED = [SamplingConfig(steps=4, guidance=1.0), SamplingConfig(steps=4, guidance=1.5)]


@dataclass(frozen=True)
class Config:
    """Accuracy and images/s of a GenDD run's head read-out under several samplers."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    images: int = 1000
    """First test images that every setting is measured on."""


def main(config: Config) -> None:
    device = torch.device("cpu")
    world = World(0, 1, 0, device)
    settings = dataclasses.replace(saved_config(config.run, TREE.train_config), student_weights=None, after=None)
    tensors = read_weights(config.run, "run")
    built = build(TREE, settings, TREE.summarize(settings).num_classes, device, missing=[], trained=tensors)
    student = built.task.get_eval_model()
    load_weights(student, tensors, "run", str(config.run))
    built.task.eval()
    data = TREE.open_data(settings, BatchPlan(seed=0, batch=1), world, built.student.network)
    precision = resolve_precision("auto", device)
    print(f"{config.run}; {hardware(device)}, {precision}, torch {torch.__version__}; batches of 500 images\n")
    print(
        f"| sampler | steps | samples | guidance | start | top-1, first {config.images} | top-1, all {data.eval_size} "
        "| images/s, median (min-max; batches) |\n|---|---|---|---|---|---|---|---|"
    )
    with autocast(precision, device):
        for sampling in (REFERENCE, *NOISY, *QUICK, *UNGUIDED):
            first, rate = measure(student, sampling, data.eval_batches(config.images), world)
            everything = "-"
            if sampling.sampler == "deterministic":
                top1, rate = measure(student, sampling, data.eval_batches(), world)
                everything = f"{top1:.2f}"
            start = sampling.start if sampling.sampler == "deterministic" else "-"
            print(
                f"| {sampling.sampler} | {sampling.steps} | {sampling.num_samples} | {sampling.guidance:g} | {start} "
                f"| {first:.2f} | {everything} | {rate} |",
                flush=True,
            )


def measure(student: Student, sampling: SamplingConfig, batches, world: World) -> tuple[float, str]:
    """Top-1 and the rate of the head read-out."""
    watch = Stopwatch(ReadOut(("head",), lambda images, noise: {
        "head": student.classifier(student.sample(images, noise, **sampling.sampling()))
    }))  # fmt: skip
    top1 = evaluate(watch, batches, world)["head"]["top1"]
    rate = watch.summary()
    return top1, f"{rate['median']:.0f} ({rate['min']:.0f}-{rate['max']:.0f}; {rate['batches']})"


if __name__ == "__main__":
    main(tyro.cli(Config))
