"""Time and memory of a CPU training with and without the launcher's setting of glibc's allocator.

    python bench/allocator.py

The same training on the built-in digits starts alternately directly (default glibc) and by the launcher (which keeps
freed blocks). The system's CPU time covers the whole process, including start and evaluation. An epoch's rate covers
only its steps, and the first epoch is not counted.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
import tyro
from scaling import spread

from gendd.core.distributed import hardware
from gendd.launch import KEPT_BLOCKS
from gendd.runs.metrics import read_metrics

STARTS = {"default glibc": ["-m"], "freed blocks kept": ["-m", "gendd.launch"]}


@dataclass(frozen=True)
class Config:
    """Trainings with and without the launcher's allocator setting, in turns."""

    student: str = "resnet20"
    batch_size: int = 128
    epochs: int = 4
    """Epochs per training; the first is not counted."""
    rounds: int = 5


@dataclass(frozen=True)
class Cost:
    images_per_second: float
    system_seconds: float
    peak_megabytes: float


def main(config: Config) -> None:
    costs: dict[str, list[Cost]] = {name: [] for name in STARTS}
    for _ in range(config.rounds):
        for name, start in STARTS.items():
            costs[name].append(train(config, start))
    first, second = ([cost.images_per_second for cost in costs[name]] for name in STARTS)
    ratios = [kept / plain for plain, kept in zip(first, second, strict=True)]
    print(
        f"{config.student} alone, digits, batch {config.batch_size}, {config.rounds} trainings of {config.epochs} "
        f"epochs each; {hardware(torch.device('cpu'))}, torch {torch.__version__}, {' '.join(platform.libc_ver())}\n"
    )
    print("| | images/s, median (min-max) | system's CPU time, s | peak memory, MB |\n|---|---|---|---|")
    for name, measured in costs.items():
        rates, system, peaks = zip(*map(astuple, measured), strict=True)
        print(f"| {name} | {spread(rates, '.0f')} | {spread(system, '.2f')} | {spread(peaks, '.0f')} |")
    print(f"\nratio of images/s in each round, freed blocks kept to default: {spread(ratios, '.2f')}")


def train(config: Config, start: list[str]) -> Cost:
    """Train once in a separate process and return its cost."""
    environment = {name: value for name, value in os.environ.items() if name not in KEPT_BLOCKS}
    with tempfile.TemporaryDirectory() as runs:
        flags = (
            ["classification", "--dataset", "digits", "--student", config.student, "--runs", runs]
            + ["--batch-size", str(config.batch_size), "--epochs", str(config.epochs), "--eval-images", "100"]
        )  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, *start, "gendd_cifar", "train", *flags],
            env={**environment, "CPU_PROCS": "1"},
            stdout=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"the training failed: exit status {status}")
        (metrics,) = Path(runs).rglob("metrics.jsonl")
        epochs = [record for record in read_metrics(metrics.parent) if record["kind"] == "train"][1:]
    rate = statistics.median(epoch["images_per_second"] for epoch in epochs)
    return Cost(rate, used.ru_stime, used.ru_maxrss / 1024)


if __name__ == "__main__":
    main(tyro.cli(Config))
