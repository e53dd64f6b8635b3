"""The picture that compares methods: top-1 of the last epoch, with its spread over seeds."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gendd.reporting.groups import Group
from gendd.reporting.pictures import (
    DPI,
    LARGE,
    SMALL,
    TEACHER,
    WIDTH,
    by_networks,
    colours_of,
    parts_of,
    set_up,
)
from gendd.reporting.rows import Row, rows_of

# Read-outs in the order in which runs report them.
MARKERS = ("o", "D", "s", "^")
LABEL_WIDTH = 44  # characters


def comparison(groups: list[Group]) -> Figure:
    """A dot a read-out of a group of runs; a panel a data set and pair of networks."""
    panels = by_networks([group.first for group in groups])
    colours = colours_of(group.first.name for group in groups)
    heights = [1.1 + 0.42 * len(members) for _, members in panels]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout="constrained")
    for part, (title, members) in zip(parts_of(figure, heights), panels, strict=True):
        part.suptitle(title, fontsize=LARGE, fontweight="bold")
        shown = [group for group in groups if group.first in members]
        _panel(part.subplots(), shown, colours)
    return figure


def _panel(axes: Axes, groups: list[Group], colours: dict[str, str]) -> None:
    set_up(axes, "", f"top-1 (%) on {groups[0].first.evaluated_on}")
    read_outs: dict[str, str] = {}
    for height, group in enumerate(groups):
        rows = rows_of([group])
        for number, row in enumerate(rows):
            marker = read_outs.setdefault(row["read_out"], MARKERS[len(read_outs) % len(MARKERS)])
            _dot(axes, row, height + 0.22 * (number - (len(rows) - 1) / 2), marker, colours[group.first.name])
        if row["teacher"] is None:
            axes.axvline(row["top1"], color=colours[group.first.name], lw=1, ls="--")
    for top1 in {row["teacher_top1"] for row in rows_of(groups) if row["teacher"]}:
        axes.axvline(top1, color=TEACHER, lw=1, ls=":")
    axes.set_yticks(range(len(groups)), [_label(group) for group in groups], fontsize=SMALL)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.grid(False, axis="y")
    keys = [Line2D([], [], color="black", lw=0, marker=marker, ms=4.5) for marker in read_outs.values()]
    axes.legend(
        keys, [name.replace("_", " ") for name in read_outs], title="read-out", fontsize=SMALL, title_fontsize=SMALL,
        frameon=False, loc="center left", bbox_to_anchor=(1, 0.5),
    )  # fmt: skip


def _dot(axes: Axes, row: Row, height: float, marker: str, colour: str) -> None:
    axes.errorbar(row["top1"], height, xerr=row["top1_sd"], fmt=marker, ms=4.5, capsize=3, lw=1.4, color=colour)
    axes.annotate(
        f"{row['top1']:.2f}", (row["top1"], height), xytext=(0, 4), textcoords="offset points", ha="center",
        fontsize=SMALL, color=colour,
    )  # fmt: skip


def _label(group: Group) -> str:
    """Name, budget and number of seeds, and beneath them the settings that tell it from others of its name."""
    lines = [f"{group.first.name}, {group.first.epochs} epochs, n = {len(group.runs)}"]
    return "\n".join([*lines, *textwrap.wrap(group.differing, LABEL_WIDTH, max_lines=2)])
