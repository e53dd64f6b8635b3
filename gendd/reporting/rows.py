"""The results as rows of values: one row per output and group of runs."""

import statistics
from collections.abc import Iterable
from typing import Any

from gendd.reporting.finished import FinishedRun
from gendd.reporting.groups import Group
from gendd.reporting.published import quoted_of
from gendd.runs.folder import AVERAGED

# Start of the name of an output that belongs to a further teacher.
HEAD_OF = "head_"
# A value is None if the runs do not have it, or differ in it.
Row = dict[str, Any]


def output_title(name: str) -> str:
    """Return the printed name of an output, such as "ema head", or "head of resnet8" for a further teacher."""
    plain = name.removeprefix(AVERAGED)
    of = plain.removeprefix(HEAD_OF)
    title = plain.replace("_", " ") if of == plain else f"head of {of}"
    return title if plain == name else f"ema {title}"


def rows_of(groups: Iterable[Group]) -> list[Row]:
    return [_row(group, output) for group in groups for output in group.first.result["last"]]


def accuracy_names(groups: Iterable[Group]) -> list[str]:
    """Return "top1", "top5" and the groups of classes, if any of the runs reports them."""
    return list(
        dict.fromkeys(
            name
            for group in groups
            for run in group.runs
            for accuracies in run.result["last"].values()
            for name in accuracies
        )
    )


def _row(group: Group, output: str) -> Row:
    runs, run = group.runs, group.first
    row: Row = {
        "data": run.data,
        "eval_images": run.result["images"],
        "eval_split": run.result["split"],
        "method": run.config["method"],
        "name": run.name,
        "label": group.label,
        "differing_settings": group.differing,
        "teacher": run.teacher,
        "teacher_top1": _teacher_top1(runs),
        "student": run.student,
        "output": output,
        "reported": "yes" if output.startswith(AVERAGED) == (run.config["eval_weights"] == "ema") else "no",
        "labels": "no" if run.config["unlabeled"] else "yes",
        "epochs": run.result["epochs"],
        "earlier_epochs": run.result["earlier_epochs"],
        "batch_size": run.config["batch_size"],
        "n": len(runs),
        "seeds": " ".join(str(member.seed) for member in runs),
    }
    for name in accuracy_names([group]):
        row |= _mean(name, [member.result["last"][output].get(name) for member in runs])
    row |= _best(runs, output) | _cost(runs, output)
    row |= {
        "hardware": "; ".join(sorted({member.result["hardware"] for member in runs})),
        "processes": run.result["processes"],
        "precision": run.result["precision"],
    }
    quoted = quoted_of(run.config, output)
    return row | {
        "quoted_top1": quoted.top1 if quoted else None,
        "quoted_epochs": quoted.epochs if quoted else None,
        "quoted_source": quoted.source if quoted else None,
    }


def _teacher_top1(runs: Iterable[FinishedRun]) -> float | None:
    """Return the mean top-1 of the runs' teachers; None if a teacher does not classify."""
    measured = [run.teacher_top1 for run in runs]
    known = [top1 for top1 in measured if top1 is not None]
    return statistics.mean(known) if len(known) == len(measured) else None


def _mean(name: str, values: list[float | None]) -> Row:
    """Return mean and sample standard deviation (n - 1) over seeds.

    The deviation of one value is None. If a value is missing, both are None.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {name: None, f"{name}_sd": None}
    return {name: statistics.mean(known), f"{name}_sd": statistics.stdev(known) if len(known) > 1 else None}


def _best(runs: Iterable[FinishedRun], output: str) -> Row:
    """Return the best epochs, if all were selected by this output and on the same images."""
    best = [run.result["best"] for run in runs]
    chosen = _same((one["output"], one["images"], one["split"], "top1" in one) for one in best)
    if not chosen or chosen[0] != output or not chosen[3]:
        return dict.fromkeys(("best_top1", "best_top1_sd", "best_epochs", "best_images", "best_split"))
    return {
        **_mean("best_top1", [one["top1"] for one in best]),
        "best_epochs": " ".join(str(one["epoch"]) for one in best),
        "best_images": chosen[1],
        "best_split": chosen[2],
    }


def _cost(runs: tuple[FinishedRun, ...], output: str) -> Row:
    """Return size and speed of the output, and the speed of training; speeds only for runs on the same hardware."""
    # Averaged weights cost the same as trained weights.
    name = output.removeprefix(AVERAGED)
    outputs = [run.result.get("outputs", {}).get(name, {}) for run in runs]
    rates = [one.get("images_per_second") for one in outputs]
    timed = _same(run.result["hardware"] for run in runs)
    measured = timed and all(rates)
    training = [run.result["train_images_per_second"] for run in runs]
    return {
        "parameters": _same(one.get("parameters") for one in outputs),
        "flops": _same(one.get("flops") for one in outputs),
        "images_per_second": statistics.median(rate["median"] for rate in rates) if measured else None,
        "images_per_second_min": min(rate["min"] for rate in rates) if measured else None,
        "images_per_second_max": max(rate["max"] for rate in rates) if measured else None,
        "train_images_per_second": statistics.median(training) if timed else None,
        "train_images_per_second_min": min(training) if timed else None,
        "train_images_per_second_max": max(training) if timed else None,
        "train_seconds": statistics.median(run.result["seconds"] for run in runs) if timed else None,
    }


def _same(values: Iterable):
    """Return the value if all are equal, else None."""
    first, *others = values
    return first if all(other == first for other in others) else None
