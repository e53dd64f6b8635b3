"""The report of finished runs: tables of accuracy and cost per data set, pictures, and explanations."""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

from gendd.core.errors import InvalidSetting
from gendd.core.files import rewrite, rewrite_text
from gendd.reporting.archive import unpacked
from gendd.reporting.comparison import comparison
from gendd.reporting.cost import RATIO, cost_picture, cost_table
from gendd.reporting.curves import curves
from gendd.reporting.escape import escaped
from gendd.reporting.features import features, neighbors
from gendd.reporting.finished import FinishedRun, finished_runs
from gendd.reporting.groups import Group, by_data, grouped
from gendd.reporting.maps import maps
from gendd.reporting.published import quoted_of_pair
from gendd.reporting.rows import accuracy_names, rows_of
from gendd.reporting.table import accuracy_table, write_csv
from gendd.runs.folder import SCORES
from gendd.runs.lock import sole_writer

HOW_TO_READ = """\
A row is one output of all runs that differ only in their seed. *head* samples features and classifies them with the
teacher's classifier. *probe* is the linear classifier on the student's feature. *classifier* is the classifier of any
other network. *ema* is a moving average of the weights. Runs with other data, epochs or settings have separate rows.
*Settings that differ* names the settings without a column that differ between runs of one student, also of other
methods. An option that all methods leave at their defaults is not named.

Accuracies: **last epoch**, mean ± standard deviation (n - 1) over the n seeds. With n = 1 there is only
the value. The best top-1 is the highest of the first output during training, after the epochs and on the images in
parentheses. It is optimistic, because it was selected on these images. Epochs: earlier stages +
the run. *Figures in italics* are quoted, not measured, and not part of a mean.

Parameters and FLOPs (a multiply-add counts two) belong to the output in the row; GenDD's head includes its sampling.
Images/s is the speed of this output alone in one process: the median over seeds of the median over batches, and the
least and greatest batch of all seeds. Training images/s is the speed of all processes without evaluation: median
(least-greatest) over seeds. A dash means not measured, or not the same for all seeds. All figures, unrounded, are in
[results.csv](results.csv)."""

FEATURE_SCORES = """\
For features, *cosine* is the mean cosine of the student's features with the teacher's, and *R2* the share of the
teacher's variance that they explain. *neighbors* is the share of an image's ten nearest images on which student and
teacher agree; its heading states the value of chance. *linear* is a linear map of the plain backbone's feature."""

MORE_TEACHERS = """\
*head* belongs to the first of several teachers, *head of NAME* to the further teacher NAME: its features are compared
with that teacher's. All of these heads use the same feature of the student."""

COMPARISON = """\
![Top-1 of each method](comparison.png)

Top-1 of the last epoch on all images: mean over seeds, with the standard deviation of several seeds. Dotted lines show
the teacher, dashed lines networks that were trained without a teacher."""

COST = """\
![Top-1 against FLOPs](cost.png)

Top-1 against FLOPs. A line joins the outputs of one student."""

COST_ORDER = """\
Rows are in the order of FLOPs, so that a GenDD head is next to students of equal inference cost."""

COST_RATIO = """ The last column is
the ratio to the FLOPs of GenDD's best head."""

CURVES = """\
![Training losses and top-1 by epoch](curves.png)

Above: lines show top-1 by epoch, dots the final measurement on all images of the split, dotted lines the teacher.
Below: one panel per method, with the mean training loss of each epoch and its parts on a logarithmic scale. Epochs
include earlier stages, so a student with an earlier stage starts late. Runs of one method with other settings have
shades of its color, from dark to light in the order of the table."""

FEATURES = """\
![Features of the teacher, targets and generated features](features.png)

Features of the first evaluation images, projected to the first two principal components of the teacher's features. Each
row is one run, with the same axes in all its panels. Colors are classes (at most ten). "Outside" is the number of
generated features outside the panel."""

FEATURE_CURVES = """\
![Training losses and agreement of features by epoch](feature_curves.png)

Runs without classes. The upper panel shows the mean cosine of the student's features with the teacher's on the
evaluation images, by epoch: *head* for generated features, *linear* for a linear map of the plain backbone's."""

NEIGHBORS = """\
![Nearest images by teacher and student](neighbors.png)

Evaluation images with their nearest images by the cosine of the teacher's features and of the student's, with that
cosine. A frame marks images that both find."""

MAPS = """\
![Feature maps of teacher and student](maps.png)

Evaluation images with the feature map of the teacher and the one that the student's dense head generates, each at its
own resolution. Colors are the teacher's first three principal components; both maps use the same components. The
picture shows the first run of the table that has a dense head; its title names the run."""

# In the order of the report. If no run has labels, the neighbors come before the tables.
EXPLAINED = {
    "comparison.png": ("Comparison", COMPARISON),
    "cost.png": ("Cost", COST),
    "curves.png": ("Curves", CURVES),
    "neighbors.png": ("Neighbors", NEIGHBORS),
    "feature_curves.png": ("Curves without classes", FEATURE_CURVES),
    "features.png": ("Features", FEATURES),
    "maps.png": ("Maps", MAPS),
}


@dataclass(frozen=True)
class ReportConfig:
    """Compare finished runs: tables of means over seeds, pictures, curves, and features of GenDD runs."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, or archives of run folders (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz)."""
    output: str = "report"
    """Folder for report.md, its pictures and results.csv."""


def write_report(config: ReportConfig) -> None:
    """Write the report, and print which runs it leaves out.

    Raises:
        UserError: a path is not a run folder, no run is complete, or the output cannot be written.
    """
    with unpacked(config.runs) as folders:
        runs, incomplete = finished_runs(folders)
        if incomplete:
            print(f"not complete, left out: {', '.join(incomplete)}")
        with sole_writer(Path(config.output), "output"):
            _write(runs, Path(config.output))


def _write(runs: list[FinishedRun], output: Path) -> None:
    groups = grouped(runs)
    classified = [group for group in groups if group.first.score == "top1"]
    alone = [group for group in groups if group.first.score != "top1"]
    # The picture shows only the features of the first seed.
    generative = [group for group in groups if group.first.folder.features.exists()]
    seen = next((group.first for group in alone if group.first.shows_images), None)
    dense = next((group.first for group in groups if group.first.folder.maps.exists()), None)
    pictures = {
        "comparison.png": lambda: comparison(classified) if classified else None,
        "cost.png": lambda: cost_picture({data: rows_of(members) for data, members in by_data(classified).items()}),
        "curves.png": lambda: curves(classified) if classified else None,
        "feature_curves.png": lambda: curves(alone) if alone else None,
        "neighbors.png": lambda: neighbors(seen) if seen else None,
        "features.png": lambda: features(generative) if generative else None,
        "maps.png": lambda: maps(dense) if dense else None,
    }
    try:
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
    tables = {escaped(data): members for data, members in by_data(groups).items()}
    explained = {name: [f"## {heading}", text] for name, (heading, text) in EXPLAINED.items() if name in pictures}
    sections = ["# Results"]
    if "comparison.png" not in pictures:
        sections += explained.pop("neighbors.png", [])
    for data, members in tables.items():
        runs = [run for group in members for run in group.runs]
        sections += [
            f"## {data}",
            accuracy_table(rows_of(members), accuracy_names(members)),
            _circumstances(runs),
        ]
        sections += _quotations(runs)
    sections += explained.pop("comparison.png", [])
    sections += explained.pop("cost.png", ["## Cost"])
    for data, members in tables.items():
        sections += [f"### {data}"] * (len(tables) > 1) + [cost_table(rows_of(members), _main_score(members))]
    order = COST_ORDER + COST_RATIO * any(RATIO in section for section in sections)
    sections += [order, *(text for texts in explained.values() for text in texts), "## How to read", HOW_TO_READ]
    more_teachers = any(group.first.more_teachers for group in groups)
    sections += [FEATURE_SCORES] * (more_teachers or any(group.first.score != "top1" for group in groups))
    sections += [MORE_TEACHERS] * more_teachers
    watched = [run for group in groups for run in group.runs if run.folder.tensorboard.exists()]
    if watched:
        sections += ["## TensorBoard", f"```\ntensorboard --logdir {_common_parent(watched)}\n```"]
    return "\n\n".join(sections) + "\n"


def _main_score(groups: list[Group]) -> str:
    """Return the first of `SCORES` that a run has: those with and without classes can share a table."""
    return next(name for name in SCORES if name in {group.first.score for group in groups})


def _quotations(runs: list[FinishedRun]) -> list[str]:
    """Return one sentence per pair of networks with all published figures, also of methods without a run here."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for quoted in dict.fromkeys(quoted for run in runs for quoted in quoted_of_pair(run.config)):
        output = "" if quoted.output == "classifier" else f", {quoted.output}"
        epochs = f"{quoted.epochs} epochs, " if quoted.epochs else ""
        figure = f"{quoted.method}{output} *{quoted.top1:.2f}* ({epochs}{quoted.source})"
        pairs.setdefault((quoted.teacher, quoted.student), []).append(figure)
    return [
        f"Quoted, not measured here, for {teacher} > {student}: {'; '.join(figures)}."
        for (teacher, student), figures in pairs.items()
    ]


def _circumstances(runs: list[FinishedRun]) -> str:
    """Return the sentences that apply to all rows of a table."""

    def listed(values: Iterable) -> str:
        return ", ".join(str(value) for value in sorted(set(values)))

    seeds = listed(run.config["seed"] for run in runs)
    torch_versions = listed(run.environment["versions"]["torch"] for run in runs)
    code = listed(_code(run.environment) for run in runs)
    return escaped(
        f"All scores, also of teachers, are measured on {runs[0].evaluated_on}. Seeds: {seeds}. "
        f"PyTorch {torch_versions}; code at {code}."
    )


def _code(environment: dict[str, Any]) -> str:
    """Return the first digits of the commit, with its mark of changed files, or the version of an installed package."""
    commit = environment["git_commit"]
    return f"commit {commit[:10]}{commit[40:]}" if commit else f"version {environment['versions'].get('gendd')}"


def _common_parent(runs: list[FinishedRun]) -> str:
    """Return the common parent folder, relative to the working folder if it is inside."""
    common = Path(os.path.commonpath([run.folder.path.resolve() for run in runs]))
    here = Path.cwd()
    return shlex.quote(str(common.relative_to(here) if common.is_relative_to(here) else common))
