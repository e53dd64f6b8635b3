"""An ablation: top-1 by the value of a setting and by its cost, as a table, a CSV file and curves."""

import contextlib
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gendd.core.errors import InvalidSetting
from gendd.core.files import rewrite, rewrite_text
from gendd.reporting.escape import escaped
from gendd.reporting.groups import by
from gendd.reporting.pictures import COLOURS, DPI, NORMAL, SMALL, WIDTH, fit_axis, set_up
from gendd.reporting.table import DASH, write_csv

TOP1, SD = "top-1 %", "sd"
# The picture shows top-1 down to this many points below the best; lower values would flatten the curves.
SHOWN = 30
MARKERS = "os^vD"


@dataclass(frozen=True)
class Ablation:
    """The results of an ablation.

    Args:
        title: one line about the setting, the networks and the data.
        note: explanation of the columns.
        curve, value, cost: names of the columns with a row's curve, the setting's value (a number), and its cost (a
            number, None if unknown).
        rows: columns by name, the same in every row, with `TOP1` and optionally `SD` over seeds (None for one seed).
        levels: top-1 of references without this setting, by name.
    """

    title: str
    note: str
    curve: str
    value: str
    cost: str
    rows: list[dict]
    levels: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path, name: str) -> None:
        """Write NAME.md, NAME.csv and NAME.png.

        Raises:
            UserError: the folder cannot be written.
        """
        print(markdown(self.rows), flush=True)
        prepare(folder)
        with _refused(folder):
            write_csv(folder / f"{name}.csv", self.rows)
            rewrite(folder / f"{name}.png", self.picture().savefig)
            title = escaped(self.title)
            text = [f"# {title}", self.note, *self._levels(), f"![{title}]({name}.png)", *self._hidden()]
            text.append(markdown(self.rows))
            rewrite_text(folder / f"{name}.md", "\n\n".join(text) + "\n")
        print(f"\nsee {(folder / name).absolute()}.md")

    @property
    def _floor(self) -> float:
        return max(row[TOP1] for row in self.rows) - SHOWN

    def _hidden(self) -> list[str]:
        """Return a sentence about rows that the picture leaves out, if any."""
        hidden = sum(row[TOP1] < self._floor for row in self.rows)
        return [f"The picture leaves out {hidden} rows more than {SHOWN} points below the best."] if hidden else []

    def _levels(self) -> list[str]:
        return [f"{name[0].upper()}{name[1:]}: {top1:.2f} %." for name, top1 in self.levels.items()]

    def picture(self) -> Figure:
        """Draw top-1 by the setting's value and by the cost; a curve joins the rows in the order of the values."""
        figure = Figure(figsize=(WIDTH, 3.4), dpi=DPI, layout="constrained")
        by_value, by_cost = figure.subplots(1, 2, sharey=True)
        for number, (name, rows) in enumerate(self._curves().items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            self._draw(by_value, self.value, rows, style, name)
            shown = [row for row in rows if row[self.cost] is not None and row[TOP1] >= self._floor]
            self._draw(by_cost, self.cost, shown, style, name)
            self._label_ends(by_cost, shown, style["color"])
        for axes, column in ((by_value, self.value), (by_cost, self.cost)):
            for (name, top1), stroke in zip(self.levels.items(), itertools.cycle((":", "--"))):
                axes.axhline(top1, color="#888888", lw=1, ls=stroke, label=name)
            set_up(axes, "", column)
            fit_axis(axes, [row[column] for row in self.rows if row[column] is not None])
        values = sorted({row[self.value] for row in self.rows})
        by_value.set_xticks(values, [f"{value:g}" for value in values])
        low, high = by_value.get_ylim()
        by_value.set_ylim(max(low, self._floor), min(high, 100))
        by_value.set_ylabel(TOP1, fontsize=NORMAL)
        by_cost.legend(fontsize=SMALL, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.suptitle(self.title, fontsize=NORMAL, x=0.01, ha="left")
        return figure

    def _curves(self) -> dict[str, list[dict]]:
        curves = by(itemgetter(self.curve), sorted(self.rows, key=itemgetter(self.value)))
        return {row[self.curve]: curves[row[self.curve]] for row in self.rows}

    @staticmethod
    def _draw(axes: Axes, column: str, rows: list[dict], style: dict, name: str) -> None:
        spread = [row.get(SD) or 0 for row in rows]
        values, top1 = [row[column] for row in rows], [row[TOP1] for row in rows]
        axes.errorbar(values, top1, spread if any(spread) else None, ms=3.5, lw=1.2, capsize=2, label=name, **style)

    def _label_ends(self, axes: Axes, rows: list[dict], color: str) -> None:
        """Label the first and the last dot with their values."""
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "color": color}
        for row in rows[:1]:
            axes.annotate(f"{row[self.value]:g}", (row[self.cost], row[TOP1]), (-4, 3), ha="right", **style)
        for row in rows[1:][-1:]:
            axes.annotate(f"{row[self.value]:g}", (row[self.cost], row[TOP1]), (4, 3), **style)


def prepare(folder: Path) -> None:
    """Create the folder of an ablation, so that a failure precedes the measurement.

    Raises:
        UserError: the folder cannot be written.
    """
    with _refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def _refused(folder: Path):
    try:
        yield
    except OSError as error:
        raise InvalidSetting(
            "output", folder, f"cannot be written ({error.strerror}); choose another folder"
        ) from error


def markdown(rows: Sequence[dict]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: object) -> str:
    if value is None:
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else escaped(str(value))
