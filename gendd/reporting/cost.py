"""What read-outs cost: top-1 against their FLOPs as a picture, and a table in the order of the FLOPs."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gendd.checkpoint import rewrite, rewrite_text
from gendd.reporting.pictures import DPI, NORMAL, WIDTH, colors_of, fit_axis, label_apart, set_up
from gendd.reporting.rows import Row
from gendd.reporting.table import COSTS, RUNS, mean_text, table
from gendd.runs import AVERAGED

BEFORE, AFTER = (
    ("Method", "Student", "Read-out", "Labels used", "Epochs", "n (seeds)"),
    ("Parameters, M", "MFLOPs per image", "Images/s", "Hardware, precision"),
)
RATIO = "FLOPs, times the head's"
NOTE = """\
![Top-1 against FLOPs](cost.png)

Every read-out whose cost is known, cheapest first: beside a GenDD head stand its own probe and the students that cost
as much. Ratios are to the best of GenDD's heads; a student that is to stand beside it has one near 1. All else is
explained in the [report](report.md)."""
MARKERS = {"head": "o", "probe": "D"}


def priced(rows: list[Row]) -> list[Row]:
    """Those of known cost, cheapest first. Of trained and averaged weights, which cost the same, the reported ones."""
    known = [row for row in rows if row["flops"] and row["reported"] == "yes"]
    return sorted(known, key=lambda row: row["flops"])


def write_costs(folder: Path, panels: dict[str, list[Row]]) -> None:
    """Write cost.md and cost.png of `priced` rows, by the data set's name."""
    tables = [f"## {data}\n\n{cost_table(rows)}" for data, rows in panels.items()]
    rewrite_text(folder / "cost.md", "\n\n".join(["# Cost", NOTE, *tables]) + "\n")
    rewrite(folder / "cost.png", cost_picture(panels).savefig)


def cost_table(rows: list[Row]) -> str:
    """A line a read-out of `priced` ones: beside a head stand its own probe, and the students that cost as much."""
    heads = [row for row in rows if (row["method"], _plain(row)) == ("gendd", "head")]
    columns = {name: RUNS[name] for name in BEFORE}
    columns["Top-1, %"] = lambda row: mean_text(row, "top1")
    columns |= {name: COSTS[name] for name in AFTER}
    if heads:
        best = max(heads, key=lambda row: row["top1"])
        columns[RATIO] = lambda row: f"{row['flops'] / best['flops']:.2f}"
    return table(rows, columns)


def _plain(row: Row) -> str:
    """The read-out, whichever weights it has."""
    return row["read_out"].removeprefix(AVERAGED)


def cost_picture(panels: dict[str, list[Row]]) -> Figure:
    """A panel a data set, by its name, a dot a read-out of `priced` ones; a line joins those of one student."""
    figure = Figure(figsize=(WIDTH, 3.6 * len(panels)), dpi=DPI, layout="constrained")
    places = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, (data, rows) in zip(places, panels.items(), strict=True):
        _panel(axes, data, rows)
    figure.draw_without_rendering()  # settles the sizes of the axes, which words are spread by
    for axes, rows in zip(places, panels.values(), strict=True):
        _name_dots(axes, rows)
    return figure


def _panel(axes: Axes, data: str, rows: list[Row]) -> None:
    set_up(axes, data, "MFLOPs per image, a multiply-add counts two")
    axes.set_ylabel("top-1 (%), last epoch", fontsize=NORMAL)
    colors = colors_of(row["name"] for row in rows)
    for row in rows:
        color, x = colors[row["name"]], row["flops"] / 1e6
        marker = MARKERS.get(_plain(row), "s")
        axes.errorbar(x, row["top1"], row["top1_sd"], marker=marker, ms=5, capsize=3, lw=1.2, color=color)
    for students in _joined(rows):
        axes.plot(
            [row["flops"] / 1e6 for row in students], [row["top1"] for row in students],
            color=colors[students[0]["name"]], lw=0.8, ls=":", zorder=0,
        )  # fmt: skip
    fit_axis(axes, [row["flops"] / 1e6 for row in rows])
    # Room for the words of the most expensive one.
    axes.margins(x=0.25, y=0.15)


def _name_dots(axes: Axes, rows: list[Row]) -> None:
    """Words beside the dots; those of about the same cost, whose words would overlap, share a column."""
    colors = colors_of(row["name"] for row in rows)
    columns: list[list] = []
    reach = (rows[-1]["flops"] - rows[0]["flops"]) / 4
    for row in rows:
        if not columns or row["flops"] > columns[-1][0]["flops"] + reach:
            columns.append([])
        columns[-1].append(row)
    for column in columns:
        words = [
            (row["top1"], f"{row['name']}, {row['student']}, {row['read_out']}", colors[row["name"]]) for row in column
        ]
        label_apart(axes, words, column[-1]["flops"] / 1e6)


def _joined(rows: list[Row]) -> list[list[Row]]:
    """The read-outs of the same runs."""
    runs: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple(
            row[name] for name in ("name", "differing_settings", "teacher", "student", "epochs", "earlier_epochs")
        )
        runs.setdefault(key, []).append(row)
    return list(runs.values())
