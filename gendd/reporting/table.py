"""Rows of results as a Markdown table and as a CSV file."""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gendd.core.files import rewrite_text
from gendd.evaluation.scores import score_title
from gendd.reporting.escape import escaped
from gendd.reporting.rows import Row, output_title

DASH = "–"

Cell = Callable[[Row], str]


def accuracy_table(rows: list[Row], accuracies: Sequence[str]) -> str:
    """Return a Markdown table with one line per row. All rows have the same evaluation images.

    Args:
        accuracies: names of the accuracies to show with mean and standard deviation, the main score first.
    """
    columns: dict[str, Cell] = {name: RUNS[name] for name in ("Method", "Output")}
    images = rows[0]["eval_images"]
    columns |= {f"{title(name, images)}, %": partial(mean_text, name=name) for name in accuracies}
    return table(rows, present(columns | RUNS | PUBLISHED, rows))


def present(columns: dict[str, Cell], rows: list[Row]) -> dict[str, Cell]:
    """Return the columns without optional columns that are empty in all rows."""
    return {
        name: cell for name, cell in columns.items() if name not in OPTIONAL or any(cell(row) != DASH for row in rows)
    }


def table(rows: list[Row], columns: dict[str, Cell]) -> str:
    """Return a Markdown table with one line per row and one cell per column."""
    cells = [
        [cell(row) if name in (QUOTED, QUOTED_FROM) else escaped(cell(row)) for name, cell in columns.items()]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---"] * len(columns), *cells))


def write_csv(path: Path, rows: list[Row]) -> None:
    """Write all values of the rows, unrounded; the cell of a missing value is empty."""
    names = dict.fromkeys(name for row in rows for name in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(rows)
    rewrite_text(path, file.getvalue())


def title(score: str, images: int) -> str:
    """Return the name of a score for a heading, given the number of evaluation images."""
    name = score_title(score, images)
    return name[0].upper() + name[1:]


def mean_text(row: Row, name: str) -> str:
    """Format mean and deviation, such as "71.24 ± 0.31"; for one run, only the value."""
    mean, deviation = row.get(name), row.get(f"{name}_sd")
    if mean is None:
        return DASH
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _teacher(row: Row) -> str:
    if not row["teacher"]:
        return "none"
    return f"{row['teacher']} ({row['teacher_top1']:.2f})" if row["teacher_top1"] else row["teacher"]


def epochs_text(row: Row) -> str:
    return f"{row['earlier_epochs']} + {row['epochs']}" if row["earlier_epochs"] else str(row["epochs"])


def _best(row: Row) -> str:
    if row["best_top1"] is None:
        return DASH
    epochs = f"epoch{'s' if row['n'] > 1 else ''} {row['best_epochs'].replace(' ', ', ')}"
    return f"{mean_text(row, 'best_top1')} ({epochs}, on {row['best_images']} {row['best_split']} images)"


def _scaled(name: str, digits: int) -> Cell:
    return lambda row: DASH if row[name] is None else f"{row[name] / 1e6:.{digits}f}"


def _rate(name: str) -> Cell:
    def cell(row: Row) -> str:
        if row[name] is None:
            return DASH
        middle, least, most = (f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in _spread(row, name))
        return middle if least == most else f"{middle} ({least}-{most})"

    return cell


def _spread(row: Row, name: str) -> tuple:
    return row[name], row[f"{name}_min"], row[f"{name}_max"]


def _hardware(row: Row) -> str:
    processes = row["processes"]
    return f"{f'{processes} x ' if processes > 1 else ''}{row['hardware']}, {row['precision']}"


def _quoted(row: Row) -> str:
    return DASH if row["quoted_top1"] is None else f"*{row['quoted_top1']:.2f}*"


def _quoted_from(row: Row) -> str:
    epochs = f"{row['quoted_epochs']} epochs, " if row["quoted_epochs"] else ""
    return f"*{epochs}{row['quoted_source']}*" if row["quoted_source"] else DASH


DIFFERING, QUOTED, QUOTED_FROM = "Settings that differ", "Published top-1, % (quoted)", "Published in (quoted)"
BEST = "Best top-1, %"
OPTIONAL = {DIFFERING, QUOTED, QUOTED_FROM, BEST}
RUNS: dict[str, Cell] = {
    "Method": lambda row: row["name"],
    "Output": lambda row: output_title(row["output"]),
    DIFFERING: lambda row: row["differing_settings"] or DASH,
    "Teacher (top-1, %)": _teacher,
    "Student": lambda row: row["student"],
    "Labels used": lambda row: row["labels"],
    "Epochs": epochs_text,
    "n (seeds)": lambda row: f"{row['n']} ({row['seeds'].replace(' ', ', ')})",
}
PUBLISHED: dict[str, Cell] = {
    QUOTED: _quoted,
    QUOTED_FROM: _quoted_from,
    BEST: _best,
}
COSTS: dict[str, Cell] = {
    "Parameters, M": _scaled("parameters", 2),
    "MFLOPs per image": _scaled("flops", 1),
    "Images/s": _rate("images_per_second"),
    "Training images/s": _rate("train_images_per_second"),
    "Training time, s": lambda row: DASH if row["train_seconds"] is None else f"{row['train_seconds']:.0f}",
    "Hardware, precision": _hardware,
}
