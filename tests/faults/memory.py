"""/dev/shm of 64 MB, the default of a container: a training and an evaluation work, or name it in one line."""

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from forked import run
from photos import write_photos
from programs import evaluate_imagenet, train_imagenet
from rows import Row, tested
from small_runs import TOY

SIZE = "64m"


def memory(folder: Path, short: bool) -> Iterator[Row]:
    photos = write_photos(folder / "photos")
    sides = ("64",) if short else ("64", "224", "1024")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", "/dev/shm"], check=True)
    promise = "works, or names /dev/shm and --workers in one line"
    yield tested(
        f"Training with a /dev/shm of 64 MB {promise}",
        (_ended(side, _training(photos, folder / side, side), folder) for side in sides),
    )
    yield tested(
        f"Evaluation with a /dev/shm of 64 MB {promise}",
        (
            _ended(side, partial(evaluate_imagenet, _evaluation(photos, folder / sides[0], side)), folder)
            for side in sides
        ),
    )
    subprocess.run(["umount", "--lazy", "/dev/shm"], check=True)


def _training(photos: Path, out: Path, side: str) -> Callable[[], object]:
    words = ["classification", "--dataset", str(photos), "--student", TOY, "--image-size", side, "--batch-size", "90",
             "--epochs", "1", "--warmup-epochs", "0", "--precision", "fp32", "--workers", "2",
             "--out", str(out)]  # fmt: skip
    return partial(train_imagenet, words)


def _evaluation(photos: Path, run_folder: Path, side: str) -> list[str]:
    return [str(run_folder), "--dataset", str(photos), "--image-size", side, "--workers", "2", "--precision", "fp32"]


def _ended(side: str, work: Callable[[], object], folder: Path) -> str:
    ended = run(work, folder)
    named = "/dev/shm" in ended.error and "--workers" in ended.error
    problem = ended.code and (ended.problem or ("" if named else ended.error.strip()))
    return problem and f"{side} pixels: {problem}"
