"""Sizes, colors, axes and labels of all pictures. They do not use pyplot, so they need no display or global state."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from gendd.methods import METHODS

# Dollar signs in a name do not mark a formula.
rcParams["text.parse_math"] = False
WIDTH, DPI = 8.0, 150  # 1200 pixels
SMALL, NORMAL, LARGE = 7, 8, 9.5  # font sizes
# Line height and width of a character of small text, in inches; characters of labels for which `WIDTH` has room.
LINE, CHARACTER, LABEL = 1.2 * SMALL / 72, 0.55 * SMALL / 72, 36
# Darkest and lightest shade of a color: parts of the way to black (negative) and to white.
DARKEST, LIGHTEST = -0.65, 0.2
# Colors of the methods in the order of `METHODS`, then of other names, so that a method always has the same color. The
# first ten are based on the palette of Okabe and Ito, which is safe for color blindness.
COLOURS = (
    *("#666666", "#CC7A00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73", "#D55E00", "#000000", "#8C6BB1", "#7A7A00"),
    *("#A65628", "#E6AB02", "#1B7837", "#E7298A", "#2C7FB8", "#B2182B", "#17BECF", "#8A2BE2", "#FF6F61", "#C49C94"),
    *("#003F5C", "#B5BD00"),
)
STROKES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 3)))
GRID, TEACHER = "#DDDDDD", "#888888"
# An axis whose values span more than a factor of WIDE is logarithmic, with at most MOST_TICKS numbers.
WIDE, MOST_TICKS = 8, 5

# (height in data units, text, color) at the end of a line. Of several seeds, only the last one has a label.
End = tuple[float, str, str]


def colors_of(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return {label: color} of pairs (name of the runs, label). Labels of one name have shades of one color.

    The methods come first, so that a method always has the same color.
    """
    names: dict[str, dict[str, None]] = {name: {} for name in METHODS}
    for name, label in labels:
        names.setdefault(name, {})[label] = None
    return {
        label: shade
        for members, color in zip(names.values(), itertools.cycle(COLOURS), strict=False)
        for label, shade in zip(members, _shades(color, len(members)), strict=False)
    }


def _shades(color: str, count: int) -> list[str]:
    """Return shades of a color from dark to light; the color itself if there is only one."""
    parts = [DARKEST + (LIGHTEST - DARKEST) * i / (count - 1) for i in range(count)] if count > 1 else [0.0]
    return [to_hex([x * (1 + part) if part < 0 else x + part * (1 - x) for x in to_rgb(color)]) for part in parts]


def width_for(labels: Iterable[str]) -> float:
    """Return the width in inches of a figure with these labels beside its axes: more for long labels."""
    return WIDTH + max(0.0, max(map(len, labels)) - LABEL) * CHARACTER


def parts_of(figure: Figure | SubFigure, heights: Sequence[float]) -> Iterable[SubFigure]:
    return figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]


def set_up(axes: Axes, title: str, horizontal: str, color: str = "black") -> None:
    """Set title, horizontal axis and the common style of all panels."""
    axes.set_title(title, fontsize=NORMAL, color=color, loc="left", pad=9)
    axes.set_xlabel(horizontal, fontsize=NORMAL)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.tick_params(labelsize=SMALL, length=0)
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def percent_limits(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis of percentages: the values with a margin, at most 100."""
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.5)
    return low - room if low < 0 else max(0, low - room), min(100, high + room)


def log_axis(axis: Axis, values: Sequence[float]) -> None:
    """Make an axis of these positive values logarithmic, with few enough numbers to avoid overlaps."""
    low, high = min(values), max(values)
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    finer = [first * power for power in powers for first in (1, 2, 5)]
    choices = ([tick for tick in ticks if low <= tick <= high] for ticks in (finer, powers, powers[::2]))
    chosen = next((ticks for ticks in choices if len(ticks) <= MOST_TICKS), powers[::4])
    if len(chosen) < 2:  # The values span less than a factor of about 2.
        chosen = [tick for tick in MaxNLocator(MOST_TICKS - 1).tick_values(low, high) if low <= tick <= high] or [low]
    axis._set_axes_scale("log")  # type: ignore[attr-defined]
    axis.set_major_locator(FixedLocator(chosen))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def fit_axis(axes: Axes, values: Sequence[float]) -> None:
    """Scale a horizontal axis for these values: logarithmic if they span more than a factor of `WIDE`."""
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if values and max(values) > WIDE * min(values) > 0:
        log_axis(axes.xaxis, values)


def label_apart(axes: Axes, ends: Iterable[End]) -> None:
    """Write labels right of the axes at these heights, moved if they would overlap.

    The figure must have been drawn once, so that the axes have their final size.
    """
    ends = sorted(ends)
    style: dict[str, Any] = {"textcoords": "offset points", "fontsize": SMALL, "va": "center"}
    heights = [axes.transLimits.transform(axes.transScale.transform((1, height)))[1] for height, *_ in ends]
    height_in_points = axes.get_window_extent().height / DPI * 72
    for height, (_, text, color) in zip(spread(heights, 1.15 * SMALL / height_in_points), ends, strict=True):
        axes.annotate(text, (1, height), (6, 0), color=color, xycoords=axes.transAxes, **style)


def spread(heights: list[float], gap: float) -> list[float]:
    """Return ascending heights, moved so that neighbors keep a gap and all are at most 1."""
    heights = list(heights)
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    return heights
