"""The report of finished runs: tables of accuracy and cost per data set, pictures of them, and how to read them."""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from matplotlib.figure import Figure

from gendd.core.errors import InvalidSetting
from gendd.core.files import rewrite, rewrite_text
from gendd.reporting.archive import unpacked
from gendd.reporting.comparison import comparison
from gendd.reporting.cost import cost_picture, cost_table
from gendd.reporting.curves import curves
from gendd.reporting.features import features, neighbors
from gendd.reporting.finished import FinishedRun, finished_runs
from gendd.reporting.groups import Group, by_data, grouped
from gendd.reporting.published import quoted_of_pair
from gendd.reporting.rows import accuracy_names, rows_of
from gendd.reporting.table import accuracy_table, write_csv

if TYPE_CHECKING:
    pass

HOW_TO_READ = """\
A row is one read-out of all runs that differ by nothing but their seed. *head* samples features and classifies them
with the teacher's classifier. *probe* is the linear classifier on the student's own feature. *classifier* is that of
any other network. *ema* is a moving average of the weights. Runs of other data, budgets or settings have rows of their
own.

Accuracies are of the **last epoch**: mean ± standard deviation (n - 1) over the n seeds; n = 1 has no deviation. The
best top-1 is the highest of the runs' first read-out during training, after the epochs and on the images that it
names; as it was chosen on them, it flatters. Epochs are those of earlier stages + the run's own. *Figures in italics*
are quoted, not measured here, and in no mean.

Parameters and FLOPs (a multiply-add counts two) are those of the read-out in its row, GenDD's head with its sampling
included. Images/s are a process's, measured on that read-out alone: median (least-greatest) over batches of all seeds.
Training images/s: median (least-greatest) over seeds, of all processes, without evaluation. A dash: not measured, or
not the same for all seeds. All figures, unrounded, are in [results.csv](results.csv)."""

FEATURE_SCORES = """\
Without classes, *cosine* is the mean cosine of the student's features with the teacher's, *R2* the share of the
teacher's variance that they explain, *neighbors* how many of an image's ten nearest others they agree on; its heading
says what chance gives. *linear* is a linear map of the plain backbone's feature."""

COMPARISON = """\
![Top-1 of each method](comparison.png)

Top-1 of the last epoch on all images: mean over seeds, with the standard deviation where there are several. Dotted: the
teacher; dashed: networks trained without one."""

COST = """\
![Top-1 against FLOPs](cost.png)

Top-1 against FLOPs; a line joins the read-outs of one student."""

COST_ORDER = """\
Cheapest first: by a GenDD head stand its own probe and the students that cost as much. Ratios are to the best of
GenDD's heads; a student that costs as much has one near 1."""

CURVES = """\
![Training losses and top-1 by epoch](curves.png)

Above, top-1 by epoch, as lines; dots are the final measurement on all images of the split; dotted: the teacher. Below,
a panel per method: the mean training loss of each epoch and its parts, on a logarithmic scale of its own. Epochs of
earlier stages are counted, so that a student that starts from one starts late."""

FEATURES = """\
![Features of the teacher, targets and generated features](features.png)

Features of the first evaluation images, on the first two principal components of the teacher's features; a row per run,
with the same axes in its panels. Colored by class (at most ten are shown). "Outside" counts generated features beyond
the panel."""

FEATURE_CURVES = """\
![Training losses and agreement of features by epoch](feature_curves.png)

Runs without classes: above, by epoch, the mean cosine of the student's features with the teacher's on the evaluation
images, *head* the generated ones, *linear* a linear map's of the plain backbone."""

NEIGHBORS = """\
![Nearest images by teacher and student](neighbors.png)

Evaluation images, each with the nearest others by the cosine of the teacher's features and of the student's, and that
cosine. Both find the framed ones."""

# In the order of the report; where no run has labels, the neighbors come before the tables.
EXPLAINED = {
    "comparison.png": ("Comparison", COMPARISON),
    "cost.png": ("Cost", COST),
    "curves.png": ("Curves", CURVES),
    "neighbors.png": ("Neighbors", NEIGHBORS),
    "feature_curves.png": ("Curves without classes", FEATURE_CURVES),
    "features.png": ("Features", FEATURES),
}


@dataclass(frozen=True)
class ReportConfig:
    """Compare finished runs: a table of means over seeds, pictures of them, curves and, of GenDD runs, features."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, or archives of some (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz)."""
    output: str = "report"
    """Folder that report.md, its pictures and results.csv are written to."""


def write_report(config: ReportConfig) -> None:
    """Write the report, and say which runs it leaves out.

    Raises:
        UserError: a path is no run folder, no run is complete, or the output cannot be written.
    """
    with unpacked(config.runs) as folders:
        runs, incomplete = finished_runs(folders)
        if incomplete:
            print(f"not complete, left out: {', '.join(incomplete)}")
        _write(runs, Path(config.output))


def _write(runs: list[FinishedRun], output: Path) -> None:
    groups = grouped(runs)
    classified = [group for group in groups if group.first.score == "top1"]
    alone = [run for run in runs if run.score != "top1"]
    # Features of the first seed stand for the others.
    generative = [group.first for group in groups if group.first.folder.features.exists()]
    seen = next((run for run in alone if run.shows_images), None)
    pictures = {
        "comparison.png": lambda: comparison(classified) if classified else None,
        "cost.png": lambda: cost_picture({data: rows_of(members) for data, members in by_data(classified).items()}),
        "curves.png": lambda: curves([run for run in runs if run not in alone]) if classified else None,
        "feature_curves.png": lambda: curves(alone) if alone else None,
        "neighbors.png": lambda: neighbors(seen) if seen else None,
        "features.png": lambda: features(generative) if generative else None,
    }
    try:
        output.mkdir(parents=True, exist_ok=True)
        drawn = [name for name, draw in pictures.items() if _drawn(output / name, draw())]
        write_csv(output / "results.csv", rows_of(groups))
        rewrite_text(output / "report.md", _text(groups, drawn))
    except OSError as error:
        raise InvalidSetting(
            "output", output, f"cannot be written ({error.strerror}); choose another folder"
        ) from error
    print(f"runs compared: {len(runs)}; see {(output / 'report.md').absolute()}")


def _drawn(path: Path, figure: Figure | None) -> bool:
    if figure:
        rewrite(path, figure.savefig)
    return figure is not None


def _text(groups: list[Group], pictures: list[str]) -> str:
    tables = by_data(groups)
    explained = {name: [f"## {heading}", text] for name, (heading, text) in EXPLAINED.items() if name in pictures}
    sections = ["# Results"]
    if "comparison.png" not in pictures:
        sections += explained.pop("neighbors.png", [])
    for data, members in tables.items():
        runs = [run for group in members for run in group.runs]
        sections += [f"## {data}", accuracy_table(rows_of(members), accuracy_names(members)), _circumstances(runs)]
        sections += _quotations(runs)
    sections += explained.pop("comparison.png", [])
    sections += explained.pop("cost.png", ["## Cost"])
    for data, members in tables.items():
        sections += [f"### {data}"] * (len(tables) > 1) + [cost_table(rows_of(members), members[0].first.score)]
    sections += [COST_ORDER, *(text for texts in explained.values() for text in texts), "## How to read", HOW_TO_READ]
    sections += [FEATURE_SCORES] * any(group.first.score != "top1" for group in groups)
    watched = [run for group in groups for run in group.runs if run.folder.tensorboard.exists()]
    if watched:
        sections += ["## TensorBoard", f"```\ntensorboard --logdir {_common_parent(watched)}\n```"]
    return "\n\n".join(sections) + "\n"


def _quotations(runs: list[FinishedRun]) -> list[str]:
    """A sentence a pair of networks: all that was published of it, whether it was run here or not."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for quoted in dict.fromkeys(quoted for run in runs for quoted in quoted_of_pair(run.config)):
        read_out = "" if quoted.read_out == "classifier" else f", {quoted.read_out}"
        epochs = f"{quoted.epochs} epochs, " if quoted.epochs else ""
        figure = f"{quoted.method}{read_out} *{quoted.top1:.2f}* ({epochs}{quoted.source})"
        pairs.setdefault((quoted.teacher, quoted.student), []).append(figure)
    return [
        f"Quoted, not measured here, of {teacher} > {student}: {'; '.join(figures)}."
        for (teacher, student), figures in pairs.items()
    ]


def _circumstances(runs: list[FinishedRun]) -> str:
    """Sentences that hold for all rows of a table."""

    def listed(values: Iterable) -> str:
        return ", ".join(str(value) for value in sorted(set(values)))

    seeds = listed(run.config["seed"] for run in runs)
    torch_versions = listed(run.environment["versions"]["torch"] for run in runs)
    commits = listed(_short(run.environment["git_commit"]) for run in runs)
    return (
        f"All scores, the teachers' too, are on {runs[0].evaluated_on}. Seeds: {seeds}. "
        f"PyTorch {torch_versions}; code at commit {commits}."
    )


def _short(commit: str | None) -> str:
    """A commit's first digits, with its mark of changed files."""
    return commit[:10] + commit[40:] if commit else "unknown"


def _common_parent(runs: list[FinishedRun]) -> str:
    """Seen from the working folder where it lies within."""
    common = Path(os.path.commonpath([run.folder.path.resolve() for run in runs]))
    here = Path.cwd()
    return shlex.quote(str(common.relative_to(here) if common.is_relative_to(here) else common))
