"""What one setting of the training does to GenDD: python -m gendd.reporting.ablate SETTING RUN... --output FOLDER.

The runs differ in that setting and in their seeds; sh/ablate.sh trains them.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from gendd.config import parse
from gendd.errors import UserError, run_program
from gendd.reporting.ablation import SD, TOP1, Ablation
from gendd.reporting.finished import FinishedRun, finished_runs
from gendd.runs import NOT_COMPARED

# What may differ beside the setting; curves of other timesteps are drawn apart.
TOGETHER = {"repeats": {"timesteps"}}
COST = "GFLOPs an image of the head's loss"
NOTE = """\
Top-1 of the last epoch: mean over seeds, their standard deviation, their number. FLOPs (a multiply-add counts two) are
counted, of the forward pass of the head's loss alone; its gradients take about twice as many again. Images/s and time
are of training alone, means over seeds, and depend on what else the machine did."""


@dataclass(frozen=True)
class AblateConfig:
    """Draw what a setting of the training does to GenDD, and what it costs."""

    setting: tyro.conf.Positional[Literal["contraction", "token-dim", "repeats", "mixup"]]
    """The setting in which the runs differ; K (repeats) with the timestep scheme as another."""
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders."""
    output: str = "ablation"
    """Folder of the table, the CSV file and the picture."""


def main(arguments: list[str] | None = None) -> None:
    config = parse(AblateConfig, "gendd.reporting.ablate", arguments)
    runs, incomplete = finished_runs(config.runs)
    if incomplete:
        print(f"not complete, left out: {', '.join(incomplete)}")
    ablation_of(config.setting, runs).write(Path(config.output), config.setting)


def ablation_of(setting: str, runs: Sequence[FinishedRun]) -> Ablation:
    """The ablation of a flag's name that finished runs make up.

    Raises:
        UserError: they differ in more than the setting and the seed.
    """
    name = setting.replace("-", "_")
    varied = {name, *TOGETHER.get(name, ())}
    _check_alike(runs, varied)
    first = runs[0]
    groups: dict[tuple, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(tuple(run.config[field] for field in (name, *sorted(varied - {name}))), []).append(run)
    rows = [
        _row(setting, read_out, values, members)
        for values, members in sorted(groups.items())
        for read_out in first.result["last"]
    ]
    hardware = f"{first.result['hardware']}, {first.result['precision']}"
    title = f"{setting}: {first.teacher} > {first.student}, {first.data}, {first.epochs} epochs"
    note = f"{NOTE} {first.evaluated_on}; {hardware}, PyTorch {first.environment['versions']['torch']}."
    levels = {"teacher": first.environment["teacher"]["top1"]}
    return Ablation(title, note, "read-out", setting, COST, rows, levels)


def _check_alike(runs: Sequence[FinishedRun], varied: set[str]) -> None:
    first = runs[0]
    for run in runs[1:]:
        names = {*run.config, *first.config} - NOT_COMPARED - varied - {"seed", "name"}
        wrong = [f"--{name.replace('_', '-')} {run.config.get(name)} and {first.config.get(name)}"
                 for name in sorted(names) if run.config.get(name) != first.config.get(name)]  # fmt: skip
        if run.epochs != first.epochs:
            wrong.append(f"epochs in all {run.epochs} and {first.epochs}")
        if wrong:
            raise UserError(
                f"RUN {run.folder.path} and {first.folder.path}: differ in more than the setting and the seed "
                f"({'; '.join(wrong)}); name runs that do not"
            )


def _row(setting: str, read_out: str, values: tuple, runs: list[FinishedRun]) -> dict:
    top1 = [run.result["last"][read_out]["top1"] for run in runs]
    value, *schemes = values
    # Runs of before these figures were kept have none.
    head = runs[0].result.get("head")
    return {
        "read-out": ", ".join([read_out, *schemes]),
        setting: value,
        TOP1: round(statistics.mean(top1), 3),
        SD: round(statistics.stdev(top1), 3) if len(top1) > 1 else None,
        "seeds": len(top1),
        COST: head and head["loss_flops"] / 1e9,
        "head's parameters, M": head and head["parameters"] / 1e6,
        "training images/s": round(statistics.mean(run.result["train_images_per_second"] for run in runs), 1),
        "training s": round(statistics.mean(run.result["seconds"] for run in runs)),
    }


if __name__ == "__main__":
    run_program(main)
