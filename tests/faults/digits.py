"""Small runs on the digits: a toy teacher, a student that learns from it, and comparisons of two runs."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from forked import run
from programs import train_cifar
from safetensors.torch import load_file
from small_runs import COMMON, HEAD, TOY, timeless_metrics, weights


class Runs:
    """Runs below a folder, with the same teacher.

    Args:
        seed: seed of the teacher.
    """

    def __init__(self, folder: Path, seed: int = 0):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        words = ["classification", *COMMON, "--epochs", "1", "--lr", "0.01", "--seed", str(seed)]
        words += ["--out", str(folder / "teacher")]
        assert not run(partial(train_cifar, words), folder).code

    def words(self, place: Path, *flags: str) -> list[str]:
        """Return the command line of a run in the folder `place`."""
        teacher = ["--teacher", TOY, "--teacher-weights", str(self.folder / "teacher")]
        return ["gendd", *COMMON, *HEAD, *teacher, "--out", str(place), *flags]

    def command(self, place: Path, *flags: str) -> Callable[[], None]:
        return partial(train_cifar, self.words(place, *flags))

    def undisturbed(self, *flags: str) -> Path:
        """Train a run without faults and return its folder."""
        place = self.folder / "-".join(["whole", *(flag.strip("-").replace("/", ".") for flag in flags)])
        if not (place / "result.json").exists():
            ended = run(self.command(place, *flags), self.folder)
            assert not ended.code, ended.error
        return place


def difference(whole: Path, other: Path) -> str:
    """Return how a complete run differs from an undisturbed one: "" if weights, metrics and results are equal."""
    if not (other / "result.json").exists():
        return "the run is incomplete"
    for read, file in ((weights, Path()), (load_file, Path("student.safetensors"))):
        one, two = read(whole / file), read(other / file)
        if one.keys() != two.keys() or not all(torch.equal(one[name], two[name]) for name in one):
            return f"other weights in {file.name or 'last.pt'}"
    if timeless_metrics(whole) != timeless_metrics(other):
        return "other metrics"
    results = [json.loads((place / "result.json").read_text()) for place in (whole, other)]
    if any(results[0][name] != results[1][name] for name in ("last", "best")):
        return "other results"
    left = [path.name for path in other.rglob("*") if path.name.endswith(".tmp") or path.name == "writer.lock"]
    return f"files are left: {', '.join(left)}" if left else ""
