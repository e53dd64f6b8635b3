"""The report of finished runs: a table a data set, their curves, and GenDD's features."""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tyro

from gendd.errors import UserError
from gendd.reporting.finished import FinishedRun, finished_runs
from gendd.reporting.pictures import curves, features
from gendd.reporting.table import results_table

HOW_TO_READ = """\
A row is one read-out of one run: *head* samples features and classifies them with the teacher's classifier, *probe* is
the linear classifier on the student's own feature, *classifier* is that of any other network; *ema* is a moving average
of the weights. Top-1 and top-5 are of the last epoch. The best top-1 is the highest of the run's first read-out during
training, after the epoch and on the images named beside it; as it was chosen on them, it flatters. The student's
parameters and FLOPs (a multiply-add counts two) are the plain network's, without GenDD's head. Images/s and time are of
training alone, without evaluation. A seed is one run: nothing here is a mean."""

CURVES = """\
![Training losses and top-1 by epoch](curves.png)

Left, a panel a method: the mean training loss of each epoch and its parts, on a logarithmic scale of its own. Right:
top-1 by epoch, as lines; dots are the final measurement on all images of the split. Dotted: the teacher."""

FEATURES = """\
![Features of the teacher, targets and generated features](features.png)

Features of the first evaluation images, on the first two principal components of the teacher's features; a row a run,
with the same axes in its panels. Coloured by class (at most ten are shown). "Outside" counts generated features beyond
the panel."""


@dataclass(frozen=True)
class ReportConfig:
    """Compare finished runs: a table, their curves and, of GenDD runs, their features."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders."""
    output: str = "report"
    """Folder that report.md and its pictures are written to."""


def write_report(config: ReportConfig) -> None:
    """Write the report, and say which runs it leaves out.

    Raises:
        UserError: a path is no run folder, no run is complete, or the output cannot be written.
    """
    runs, incomplete = finished_runs(config.runs)
    if incomplete:
        print(f"not complete, left out: {', '.join(incomplete)}")
    output = Path(config.output)
    generative = [run for run in runs if run.folder.features.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        curves(runs).savefig(output / "curves.png")
        if generative:
            features(generative).savefig(output / "features.png")
        (output / "report.md").write_text(_text(runs, bool(generative)))
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror}); choose another folder") from error
    print(f"runs compared: {len(runs)}; see {output / 'report.md'}")


def _text(runs: list[FinishedRun], with_features: bool) -> str:
    sections = ["# Results", HOW_TO_READ]
    for data, members in _by_data(runs).items():
        sections += [f"## {data}", _circumstances(members), results_table(members)]
    sections += ["## Curves", CURVES]
    if with_features:
        sections += ["## Features", FEATURES]
    sections += ["## TensorBoard", f"```\ntensorboard --logdir {_common_parent(runs)}\n```"]
    return "\n\n".join(sections) + "\n"


def _by_data(runs: Iterable[FinishedRun]) -> dict[str, list[FinishedRun]]:
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(run.comparable, []).append(run)
    return groups


def _circumstances(runs: list[FinishedRun]) -> str:
    """Sentences that hold for all rows of a table."""

    def listed(values: Iterable) -> str:
        return ", ".join(str(value) for value in sorted(set(values)))

    seeds = listed(run.config["seed"] for run in runs)
    torch_versions = listed(run.environment["versions"]["torch"] for run in runs)
    commits = listed(_short(run.environment["git_commit"]) for run in runs)
    return (
        f"All top-1 and top-5, the teachers' too, are on {runs[0].evaluated_on}. Seeds: {seeds}. "
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
