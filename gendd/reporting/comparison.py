"""The picture that compares methods: top-1 of the last epoch, with its spread over seeds."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gendd.reporting.groups import Group
from gendd.reporting.pictures import (
    APART,
    DPI,
    LARGE,
    SMALL,
    TEACHER,
    WIDTH,
    by_networks,
    colors_of,
    parts_of,
    set_up,
    wrapped,
)
from gendd.reporting.rows import Row, rows_of
from gendd.reporting.table import epochs_text, mean_text

LABEL_WIDTH = 44  # characters


def comparison(groups: list[Group]) -> Figure:
    """A line a row of the table; a panel a data set, pair of networks, optimizer and use of labels."""
    panels = [
        (title, [row for group in groups if group.first in runs for row in rows_of([group])])
        for title, runs in by_networks([group.first for group in groups])
    ]
    colors = colors_of(group.first.name for group in groups)
    heights = [1.1 + 0.3 * len(rows) for _, rows in panels]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout="constrained")
    drawn: dict[str, list[Axes]] = {}
    for part, (title, rows) in zip(parts_of(figure, heights), panels, strict=True):
        part.suptitle(wrapped(title), fontsize=LARGE, fontweight="bold")
        axes = part.subplots()
        _panel(axes, rows, colors)
        drawn.setdefault(title.partition(APART)[0], []).append(axes)
    for alike in drawn.values():
        # Of the same networks, so that panels can be compared.
        low, high = zip(*(axes.get_xlim() for axes in alike), strict=True)
        for axes in alike:
            axes.set_xlim(min(low), max(high))
    return figure


def _panel(axes: Axes, rows: list[Row], colors: dict[str, str]) -> None:
    set_up(axes, "", "top-1 (%), mean ± standard deviation over n seeds")
    for height, row in enumerate(rows):
        color = colors[row["name"]]
        axes.errorbar(row["top1"], height, xerr=row["top1_sd"], fmt="o", ms=4.5, capsize=3, lw=1.4, color=color)
        text = f"{mean_text(row, 'top1')}, n = {row['n']}"
        axes.text(1.02, height, text, transform=axes.get_yaxis_transform(), fontsize=SMALL, color=color, va="center")
    lines = {
        f"teacher {row['teacher_top1']:.2f}": (row["teacher_top1"], TEACHER, ":") for row in rows if row["teacher_top1"]
    }
    for row in rows:
        if not row["teacher"]:
            lines.setdefault(f"{row['name']} {row['top1']:.2f}", (row["top1"], colors[row["name"]], "--"))
    for name, (top1, color, stroke) in lines.items():
        axes.axvline(top1, color=color, lw=1, ls=stroke, zorder=0, label=name)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=SMALL)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.legend(fontsize=SMALL, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0, ncols=4)


def _label(row: Row) -> str:
    """Name, read-out and budget, and beneath them the settings that tell the row from others of its name."""
    read_out = "" if row["read_out"] == "classifier" else f", {row['read_out'].replace('_', ' ')}"
    first = f"{row['name']}{read_out}, {epochs_text(row)} epochs"
    return "\n".join([first, *textwrap.wrap(row["differing_settings"], LABEL_WIDTH, max_lines=2)])
