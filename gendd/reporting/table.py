"""The results of finished runs as a Markdown table."""

from collections.abc import Callable, Iterable

from gendd.reporting.finished import FinishedRun

# (run, name of one of its read-outs) -> text of a cell.
Cell = Callable[[FinishedRun, str], str]


def results_table(runs: Iterable[FinishedRun]) -> str:
    """One row a run and read-out."""
    rows = [[cell(run, read_out) for cell in COLUMNS.values()] for run in runs for read_out in run.result["last"]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows))


def _teacher(run: FinishedRun, _: str) -> str:
    return f"{run.teacher} ({run.environment['teacher']['top1']:.2f})" if run.teacher else "none"


def _best(run: FinishedRun, read_out: str) -> str:
    best = run.result["best"]
    if best["read_out"] != read_out:
        return "–"
    return f"{best['top1']:.2f} (epoch {best['epoch']}, on {best['images']} {best['split']} images)"


def _hardware(run: FinishedRun, _: str) -> str:
    processes = run.result["processes"]
    return f"{f'{processes} x ' if processes > 1 else ''}{run.result['hardware']}, {run.result['precision']}"


COLUMNS: dict[str, Cell] = {
    "Method": lambda run, _: run.name,
    "Seed": lambda run, _: str(run.config["seed"]),
    "Teacher (top-1, %)": _teacher,
    "Student": lambda run, _: run.student,
    "Read-out": lambda _, read_out: read_out.replace("_", " "),
    "Labels used": lambda run, _: "no" if run.config["unlabeled"] else "yes",
    "Epochs": lambda run, _: run.epochs,
    "Top-1, %": lambda run, read_out: f"{run.result['last'][read_out]['top1']:.2f}",
    "Top-5, %": lambda run, read_out: f"{run.result['last'][read_out]['top5']:.2f}",
    "Best top-1, %": _best,
    "Student's parameters, M": lambda run, _: f"{run.result['student']['parameters'] / 1e6:.2f}",
    "Student's MFLOPs an image": lambda run, _: f"{run.result['student']['flops'] / 1e6:.1f}",
    "Training images/s": lambda run, _: f"{run.result['train_images_per_second']:.0f}",
    "Training time, s": lambda run, _: f"{run.result['seconds']:.0f}",
    "Hardware, precision": _hardware,
}
