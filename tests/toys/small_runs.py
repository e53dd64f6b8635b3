"""Small runs of toy networks on the built-in digits: their flags, interruptions and comparisons."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from gendd.runs.metrics import read_metrics
from gendd.training.loop import Training

TOY = "toy:network"
TOYS = str(Path(__file__).parent)
COMMON = ["--dataset", "digits", "--student", TOY, "--epochs", "3", "--schedule", "cosine", "--eval-every", "1",
          "--hflip", "0", "--crop-padding", "1", "--precision", "fp32"]  # fmt: skip
HEAD = ["--token-dim", "32", "--width", "16", "--depth", "1", "--trunk-depth", "1", "--repeats", "2",
        "--draw-scheme", "shared", "--sampling-steps", "1"]  # fmt: skip
DENSE = ["--dense-grid", "2", "--dense-width", "16", "--dense-draws", "2"]
# A second teacher, and a run with two teachers and all parts for each.
SECOND = ["--teacher", "toy:wide", "--teacher-image-size", "48"]
PAIR = [*DENSE, "--ema-decay", "0.9", *SECOND]
GENDD = ["gendd", *COMMON, *HEAD, "--teacher", TOY]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]


def assert_same_weights(one: Path, other: Path, **tolerance) -> None:
    for (name, value), expected in zip(weights(one).items(), weights(other).values(), strict=True):
        torch.testing.assert_close(value, expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def timeless_metrics(run: Path) -> list[dict]:
    """Return the run's metrics without speeds."""
    speed = {"images_per_second", "waiting_for_data"}
    return [{name: value for name, value in record.items() if name not in speed} for record in read_metrics(run)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def ctrl_c(method: str, **at: int):
    """Interrupt a training, like Ctrl-C, before this method of the loop runs at this epoch or step."""
    ((counter, number),) = at.items()
    original = getattr(Training, method)

    def interrupted(self, *arguments):
        if getattr(self, counter) == number:
            raise KeyboardInterrupt
        return original(self, *arguments)

    with patch.object(Training, method, interrupted), pytest.raises(KeyboardInterrupt):
        yield


def run_in_two_processes(*words: str, program: str = "gendd_cifar train", **variables: str) -> str:
    """Run a program in two processes and return its standard error."""
    environment = {**os.environ, "CPU_PROCS": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": TOYS, **variables}
    command = [sys.executable, "-m", "gendd.launch", *program.split(), *words]
    return subprocess.run(command, check=True, env=environment, capture_output=True, text=True, timeout=120).stderr
