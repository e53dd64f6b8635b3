"""Write run folders as a training does, and read the tables of their reports."""

import csv
import json
from pathlib import Path

import torch

from gendd.core.files import save_tensors
from gendd.methods import METHODS
from gendd.programs.report import report as write
from gendd.runs.folder import by_name
from gendd_cifar.family import FAMILY

EPOCHS = 3


def write_run(
    folder: Path,
    method: str,
    outputs: dict[str, tuple[float, ...]],
    complete: bool = True,
    result: dict | None = None,
    **config,
) -> Path:
    """Write a run folder as a training does.

    Args:
        outputs: top-1, top-5 and, optionally, the accuracies of class groups, by output.
    """
    folder.mkdir(parents=True)
    distilled = method != "classification"
    values = {"student": "small", "teacher": "large" if distilled else None, "epochs": EPOCHS, **config}
    kind = METHODS[method]
    settings = FAMILY.config(kind(), dataset="digits")
    known = {name: value for name, value in values.items() if name in by_name(settings.content())}
    content = {"family": FAMILY.name, **settings.changed(**known).content()}
    teacher = {"teacher": {"top1": 91.234, "top5": 99.0, "sha256": "ab12"}} if distilled else {}
    environment = {"versions": {"torch": "2.13.0"}, "git_commit": None, **teacher}
    names = ("top1", "top5", "many", "few")
    last = {name: dict(zip(names, values, strict=False)) for name, values in outputs.items()}
    first = next(iter(last))
    records = [{"kind": "final", "epoch": EPOCHS, "step": EPOCHS, "images": 500, "split": "test", **last}]
    for epoch in range(1, EPOCHS + 1):
        records.append({"kind": "train", "epoch": epoch, "step": epoch, "loss": 2 / epoch, "lr": 1e-3})
        records.append({"kind": "eval", "epoch": epoch, "step": epoch, "images": 100, "split": "test", **last})
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rate = {"median": 4000.4, "min": 3000.0, "max": 5000.0, "batches": 8}
    costs = {"parameters": 1_230_000, "flops": 45_600_000, "images_per_second": rate}
    head_costs = {"parameters": 9_870_000, "flops": 65_400_000, "images_per_second": rate}
    result = {
        "epochs": values["epochs"], "earlier_epochs": 5 if method == "gendd" else 0,
        "split": "test", "images": 500, "last": last,
        "best": {"epoch": 2, "output": first, "top1": last[first]["top1"] + 1, "split": "test", "images": 100},
        "student": {"parameters": 1_230_000, "flops": 45_600_000}, "seconds": 78.9, "train_images_per_second": 321.4,
        "processes": 2, "hardware": "some GPU", "precision": "bf16",
        "outputs": {name: head_costs if name == "head" else costs for name in outputs}, **(result or {}),
    }  # fmt: skip
    if complete:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def write_contents(run: Path, checksum: str | None, what: str = "training contents") -> None:
    """Write a run's data.json with this checksum, of the contents of the training images or of `what`."""
    sizes = {"training images": 9, "evaluation images": 3, "training images of each class": None}
    (run / "data.json").write_text(json.dumps({"classes": [], **sizes, what: checksum}))


def settings_of(run: Path) -> dict:
    """Return all values of a run's configuration by field name."""
    return by_name(json.loads((run / "config.json").read_text()))


def change_settings(run: Path, **settings) -> None:
    """Change values of a run's configuration."""
    content = json.loads((run / "config.json").read_text())
    for part in content.values():
        if isinstance(part, dict):
            part.update({name: settings[name] for name in part if name in settings})
    (run / "config.json").write_text(json.dumps(content))


def write_features(folder: Path) -> None:
    random = torch.Generator().manual_seed(0)
    teacher = torch.randn(60, 8, generator=random)
    labels = torch.arange(60) % 12
    save_tensors(
        folder / "features.safetensors",
        {"teacher": teacher, "target": 0.5 * teacher, "generated": 50 * teacher, "labels": labels},
    )


def tables(text: str) -> list[list[dict[str, str]]]:
    """Return the rows of every Markdown table, by column name."""
    found = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        if block.startswith("|"):
            found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def accuracies(text: str) -> list[list[dict[str, str]]]:
    """Return the rows of a report's accuracy tables, one table per data set."""
    return [rows for rows in tables(text) if "Epochs" in rows[0]]


def costs(text: str) -> list[list[dict[str, str]]]:
    """Return the rows of a report's cost tables, one table per data set."""
    return [rows for rows in tables(text) if "MFLOPs per image" in rows[0]]


def report(output: Path, *runs: Path) -> str:
    """Write a report of runs, and return its text."""
    write(FAMILY, [*map(str, runs), "--output", str(output)])
    return (output / "report.md").read_text()


def csv_rows(output: Path) -> list[dict[str, str]]:
    with open(output / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def file_numbers(folder: Path) -> dict[str, int]:
    """Return the inode of each file of a folder by name: a file that replaces another has a new one."""
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}
