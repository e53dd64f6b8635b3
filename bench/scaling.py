"""Images/s of the train program with one and with two processes, and the same number of threads in total.

    python bench/scaling.py

GenDD trains on the built-in digits with an untrained teacher. Each setting is a separate training with the launcher. An
epoch's rate covers only its steps, and the first epoch is not counted. Two processes spend time on the all-reduce and
on waiting for each other, two threads on work that does not divide. The benchmark takes two minutes on two cores, most
of them uncounted: start, warm-up and evaluation.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import tyro

from gendd.core.distributed import hardware
from gendd.runs.metrics import read_metrics

# Processes, and threads per process. The others are compared with the first.
SETTINGS = ((1, 2), (2, 1), (1, 1))
HEAD = ("--width", "512", "--repeats", "8", "--draw-scheme", "antithetic")


@dataclass(frozen=True)
class Config:
    """Images/s of the train program with one and with two processes."""

    teacher: str = "resnet20"
    student: str = "resnet8x4"
    batch_size: int = 64
    """Images per step, over all processes."""
    epochs: int = 4
    """Epochs per training; the first is not counted."""
    rounds: int = 1
    """Trainings per setting, in turns."""


def main(config: Config) -> None:
    rates: dict[tuple[int, int], list[float]] = {setting: [] for setting in SETTINGS}
    losses: dict[tuple[int, int], float] = {}
    for _ in range(config.rounds):
        for setting in SETTINGS:
            epochs = train(config, *setting)
            losses[setting] = epochs[-1]["loss"]
            rates[setting] += [epoch["images_per_second"] for epoch in epochs[1:]]

    print(f"{config.teacher} > {config.student}, digits, batch {config.batch_size}, {' '.join(HEAD)}")
    print(
        f"{hardware(torch.device('cpu')).rsplit(',', 1)[0]}, {len(os.sched_getaffinity(0))} cores, gloo; "
        f"torch {torch.__version__}, timm {version('timm')}, Python {platform.python_version()}\n"
    )
    print("| processes x threads | images/s, median (min-max) | epochs | ratio to the first, per epoch | loss |")
    print("|---|---|---|---|---|")
    for (processes, threads), measured in rates.items():
        ratios = [rate / first for rate, first in zip(measured, rates[SETTINGS[0]], strict=True)]
        print(
            f"| {processes} x {threads} | {spread(measured, '.1f')} | {len(measured)} | {spread(ratios, '.2f')} "
            f"| {losses[processes, threads]:.4f} |"
        )


def train(config: Config, processes: int, threads: int) -> list[dict]:
    """Train, and return the record of each epoch."""
    with tempfile.TemporaryDirectory() as runs:
        flags = (
            ["gendd", "--dataset", "digits", "--teacher", config.teacher, "--teacher-weights", "random"]
            + ["--student", config.student, "--batch-size", str(config.batch_size), "--epochs", str(config.epochs)]
            + ["--eval-images", "100", "--runs", runs, *HEAD]
        )
        environment = {**os.environ, "CPU_PROCS": str(processes), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "gendd.launch", "gendd_cifar", "train", *flags]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        (metrics,) = Path(runs).rglob("metrics.jsonl")
        return [record for record in read_metrics(metrics.parent) if record["kind"] == "train"]


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"


if __name__ == "__main__":
    main(tyro.cli(Config))
