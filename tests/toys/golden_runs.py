"""Tiny seeded runs of every method, and their numbers, which refactoring must not change.

    PYTHONPATH=.:tests/toys python -m golden_runs NAME...    records the numbers of these runs again (all: every run)
    PYTHONPATH=.:tests/toys python -m golden_runs --to FILE  records all runs in FILE, for a bitwise comparison

Only this program writes tests/golden/figures.json; a failing test never does.
"""

import contextlib
import io
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from photos import write_photos
from programs import train_cifar as train_small
from programs import train_imagenet as train_photos

from gendd.family import paper_protocol
from gendd.runs.metrics import read_metrics

FIGURES = Path(__file__).parents[1] / "golden" / "figures.json"
TOY = "toy:network"
# Depend on the machine's speed.
TIMED = {"images_per_second", "waiting_for_data"}

COMMON = {
    "dataset": "digits",
    "student": TOY,
    "epochs": 2,
    "batch-size": 128,
    "schedule": "cosine",
    "lr": 5e-3,
    "eval-every": 1,
    "hflip": 0,
    "crop-padding": 1,
    "precision": "fp32",
}
HEAD = {"token-dim": 32, "width": 16, "depth": 1, "trunk-depth": 1, "repeats": 4}
# The paper's protocol, but 8 sampling steps instead of 100.
PAPER = {name.replace("_", "-"): value for name, value in paper_protocol(repeats=30, steps=8).items()}
NOISE = {
    "prediction": "noise",
    "trunk-depth": 0,
    "timestep-density": "uniform",
    "condition-dropout": 0.2,
    "sampling-start": 800,
    "sampling-steps": 2,
    "guidance": 2,
}
UNLABELED = {"unlabeled": True, "contraction": 0}
NO_LABELS = {"unlabeled": True}
PHOTOS = {
    "image-size": 32,
    "batch-size": 16,
    "warmup-epochs": 0,
    "workers": 0,
    "crop-pct": 1,
    "mixup": 0.2,
    "cutmix": 1,
    "label-smoothing": 0.1,
    "auto-augment": "rand-m7-n2-mstd0.5",
    "lr": 5e-3,
}

# Name of a run -> its method and its options in addition to `COMMON`.
RUNS: dict[str, tuple[str, dict]] = {
    "classification": ("classification", {}),
    "classification-sgd-step": (
        "classification",
        {"optimizer": "sgd", "lr": 0.05, "schedule": "step", "milestones": 1, "ema-decay": 0.9},
    ),
    "kd": ("kd", {}),
    "kd-standardized": ("kd", {"logit-standardization": True, "temperature": 2}),
    "kd-muon": ("kd", {"optimizer": "muon", "warmup-epochs": 1}),
    "kd-few-labels": ("kd", {"label-fraction": 0.2}),
    "dkd": ("dkd", {"distill-warmup-epochs": 2}),
    "ikl": ("ikl", {"distill-warmup-epochs": 0}),
    "dist": ("dist", {"temperature": 1, "beta": 1, "gamma": 1}),
    "kl": ("kl", NO_LABELS),
    "feature": ("feature", {}),
    "srd": ("srd", {}),
    "vkd": ("vkd", {}),
    "simkd": ("simkd", {}),
    "pretrain": ("pretrain", {}),
    "pretrain-unlabeled": ("pretrain", NO_LABELS),
    "regression": ("regression", HEAD),
    "regression-unlabeled": ("regression", HEAD | UNLABELED),
    "gendd": ("gendd", HEAD),
    "gendd-unlabeled": ("gendd", HEAD | UNLABELED),
    "gendd-few-labels": ("gendd", HEAD | {"label-fraction": 0.2}),
    "gendd-unmixed-muon-ema": (
        "gendd",
        HEAD | {"feature-mixup": 0, "optimizer": "muon", "ema-decay": 0.9, "head-lr": 1e-3},
    ),
    "gendd-accumulated": ("gendd", HEAD | {"grad-accum-steps": 2}),
    "gendd-cached": ("gendd", HEAD | {"teacher-cache": "cache", "cached-views": 2}),
    "gendd-head-exempt": ("gendd", HEAD | {"decay": "head-exempt", "grad-checkpointing": "head"}),
    "gendd-paper": ("gendd", HEAD | PAPER | {"eval-images": 64}),
    "gendd-noise-paired": ("gendd", HEAD | NOISE | {"draw-scheme": "antithetic"}),
    "gendd-noise-min-snr": ("gendd", HEAD | NOISE | {"loss-weighting": "min-snr"}),
    "gendd-velocity": ("gendd", HEAD | {"prediction": "velocity", "timestep-density": "logit-normal"}),
    "gendd-flow": ("gendd", HEAD | {"prediction": "velocity", "noise-path": "straight", "loss-weighting": "feature"}),
    "finetune": ("finetune", HEAD | {"student-weights": "gendd"}),
    "finetune-unlabeled": ("finetune", HEAD | NO_LABELS | {"student-weights": "gendd"}),
    "gendd-photos": ("gendd", HEAD | PHOTOS | {"feature-mixup": 0}),
    "kd-photos": ("kd", PHOTOS),
}


def command(method: str, options: Mapping[str, object]) -> list[str]:
    """Return the command line that trains a method with these options."""
    words = [method]
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", str(value)]
    return words


@cache
def teacher(folder: Path) -> Path:
    """Train a teacher on the digits below the folder, and return its run."""
    train_small([*command("classification", COMMON | {"lr": 0.01}), "--runs", str(folder / "teacher")])
    return folder / "teacher" / "digits" / "toy.network" / "classification" / "0"


@cache
def photos_teacher(folder: Path, photos: Path) -> Path:
    options = COMMON | PHOTOS | {"dataset": photos, "label-smoothing": 0}
    del options["crop-padding"]
    train_photos([*command("classification", options), "--runs", str(folder / "teacher")])
    return folder / "teacher" / photos.name / "toy.network" / "classification" / "0"


def arguments(name: str, folder: Path, photos: Path) -> list[str]:
    """Return the command line of a run below the folder."""
    method, options = RUNS[name]
    options = COMMON | options
    if "image-size" in options:
        del options["crop-padding"]
        options |= {"dataset": photos}
    if method != "classification":
        known = photos_teacher(folder, photos) if "image-size" in options else teacher(folder)
        options |= {"teacher": TOY, "teacher-weights": known}
    if "teacher-cache" in options:
        options |= {"teacher-cache": folder / name / "cache"}
    if "student-weights" in options:
        options |= {"student-weights": train(options["student-weights"], folder, photos)}
    return [*command(method, options), "--runs", str(folder / name)]


def train(name: str, folder: Path, photos: Path) -> Path:
    """Train a run below the folder, on `photos` if it uses photographs, and return its folder."""
    words = arguments(name, folder, photos)
    main = train_photos if "image-size" in RUNS[name][1] else train_small
    with contextlib.redirect_stdout(io.StringIO()):
        main(words)
    return run_folder(folder / name)


def run_folder(runs: Path) -> Path:
    """Return the only run below a folder of runs."""
    (config,) = runs.glob("*/*/*/0/config.json")
    return config.parent


def figures(run: Path) -> dict:
    """Return a run's numbers: losses and accuracies of each epoch, and the sorted norms of its tensors."""
    records = [{name: value for name, value in record.items() if name not in TIMED} for record in read_metrics(run)]
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    tensors = [value.double() for key in ("model", "ema") for value in content.get(key, {}).values()]
    norms = sorted(tensor.norm().item() for tensor in tensors if math.isfinite(tensor.norm().item()))
    return {"epochs": json.loads(json.dumps(records)), "norms": norms}


def recorded() -> dict:
    return json.loads(FIGURES.read_text()) if FIGURES.exists() else {}


def main(words: list[str]) -> None:
    file = Path(words[1]) if words[0] == "--to" else FIGURES
    names = list(RUNS) if words[0] == "--to" or words == ["all"] else words
    torch.set_num_threads(1)
    content = {} if words[0] == "--to" else recorded()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        photos = write_photos(folder / "photos")
        for name in names:
            content[name] = figures(train(name, folder, photos))
            print(name, file=sys.stderr, flush=True)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({name: content[name] for name in RUNS if name in content}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
