"""Inference cost of the outputs: a picture of top-1 against FLOPs, and a table in the order of FLOPs."""

import math
from collections.abc import Sequence
from operator import itemgetter

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gendd.reporting.groups import by
from gendd.reporting.pictures import (
    DPI,
    LINE,
    NORMAL,
    End,
    colors_of,
    fit_axis,
    label_apart,
    percent_limits,
    set_up,
    width_for,
)
from gendd.reporting.rows import Row, output_title
from gendd.reporting.table import COSTS, DASH, DIFFERING, RUNS, mean_text, present, table, title
from gendd.runs.folder import AVERAGED

RATIO = "FLOPs, times the head's"
MARKERS = {"head": "o", "probe": "D"}


def cost_table(rows: list[Row], score: str) -> str:
    """Return a table with one line per reported output, the fewest FLOPs first."""
    rows = sorted(_reported(rows), key=lambda row: row["flops"] or math.inf)
    # Runs without classes have other scores than the others in the table.
    scored = [row for row in rows if row["flops"] and row.get(score) is not None]
    heads = [row for row in scored if (row["method"], _plain(row)) == ("gendd", "head")]
    columns = {name: RUNS[name] for name in ("Method", "Output")}
    columns[f"{title(score, rows[0]['eval_images'])}, %"] = lambda row: mean_text(row, score)
    columns |= {name: RUNS[name] for name in (DIFFERING, "Student")} | COSTS
    if heads:
        best = max(heads, key=lambda row: row[score])
        columns[RATIO] = lambda row: f"{row['flops'] / best['flops']:.2f}" if row["flops"] else DASH
    return table(rows, present(columns, rows))


def _reported(rows: list[Row]) -> list[Row]:
    """Return the rows of the reported weights: trained and averaged weights cost the same."""
    return [row for row in rows if row["reported"] == "yes"]


def _plain(row: Row) -> str:
    """Return the name of the output without the prefix for averaged weights."""
    return row["output"].removeprefix(AVERAGED)


def cost_picture(panels: dict[str, list[Row]]) -> Figure | None:
    """Draw one panel per data set, with a dot per output of known cost; a line joins the outputs of one student.

    Args:
        panels: rows by the name of the data set.

    Returns:
        None if no cost is known.
    """
    priced = {
        data: [row for row in _reported(rows) if row["flops"] and row["top1"] is not None]
        for data, rows in panels.items()
    }
    priced = {data: rows for data, rows in priced.items() if rows}
    if not priced:
        return None
    heights = [max(3.0, 1.1 + LINE * len(rows)) for rows in priced.values()]
    labels = {data: _labels(rows) for data, rows in priced.items()}
    width = width_for(text for texts in labels.values() for text in texts)
    figure = Figure(figsize=(width, sum(heights)), dpi=DPI, layout="constrained")
    places = figure.subplots(len(priced), squeeze=False, height_ratios=heights)[:, 0]
    ends = [_panel(axes, data, rows, labels[data]) for axes, (data, rows) in zip(places, priced.items(), strict=True)]
    figure.draw_without_rendering()  # Fixes the sizes of the axes, which `label_apart` needs.
    for axes, words in zip(places, ends, strict=True):
        label_apart(axes, words)
    return figure


def _labels(rows: Sequence[Row]) -> list[str]:
    """Return one label per row, with the student if there are several."""
    several = len({row["student"] for row in rows}) > 1
    students = [f", {row['student']}" if several else "" for row in rows]
    titles = [output_title(row["output"]) for row in rows]
    return [f"{row['label']}{student}, {title}" for row, student, title in zip(rows, students, titles, strict=True)]


def _panel(axes: Axes, data: str, rows: Sequence[Row], labels: Sequence[str]) -> list[End]:
    set_up(axes, data, "MFLOPs per image, a multiply-add counts two")
    axes.set_ylabel("top-1 (%), last epoch", fontsize=NORMAL)
    colors = colors_of((row["name"], row["label"]) for row in rows)
    for row in rows:
        color, x = colors[row["label"]], row["flops"] / 1e6
        marker = MARKERS.get(_plain(row), "s")
        axes.errorbar(
            x, row["top1"], row["top1_sd"], marker=marker, ms=5, capsize=3, lw=1.2, color=color, clip_on=False
        )
    for students in _joined(rows):
        axes.plot(
            [row["flops"] / 1e6 for row in students], [row["top1"] for row in students],
            color=colors[students[0]["label"]], lw=0.8, ls=":", zorder=0,
        )  # fmt: skip
    fit_axis(axes, [row["flops"] / 1e6 for row in rows])
    axes.margins(x=0.1)
    spreads = [(row["top1"], row["top1_sd"] or 0) for row in rows]
    axes.set_ylim(percent_limits([top1 + sign * spread for top1, spread in spreads for sign in (-1, 1)]))
    return [(row["top1"], text, colors[row["label"]]) for row, text in zip(rows, labels, strict=True)]


def _joined(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the outputs by their runs."""
    return list(by(itemgetter("label", "student"), rows).values())
