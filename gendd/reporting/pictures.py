"""Pictures of finished runs. Drawn without pyplot: no display, no global state."""

import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from torch import Tensor

from gendd import checkpoint
from gendd.evaluation import feature_agreement, nearest
from gendd.methods import METHODS
from gendd.reporting.finished import FinishedRun
from gendd.runs import SCORES

WIDTH, DPI = 8.0, 150  # 1200 pixels
SMALL, NORMAL, LARGE = 7, 8, 9.5  # font sizes
# Inches of a panel that has many lines, and of a small one, of which so many stand side by side.
TALL, FLAT, COLUMNS = 4.2, 1.6, 3
# The registry's methods, then other names: always the same color for the same method. The first ten after Okabe
# and Ito, so that impaired color vision tells them apart too.
COLOURS = (
    *("#666666", "#CC7A00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73", "#D55E00", "#000000", "#8C6BB1", "#7A7A00"),
    *("#A65628", "#E6AB02", "#1B7837", "#E7298A", "#2C7FB8", "#B2182B", "#17BECF", "#8A2BE2", "#FF6F61", "#C49C94"),
    *("#003F5C", "#B5BD00"),
)
STROKES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
GRID, TEACHER = "#DDDDDD", "#888888"
NO_LOSSES = {"kind", "epoch", "step", "lr", "images_per_second", "waiting_for_data"}
# Characters of a title's line.
TITLE_WIDTH = 90
# Between a panel's networks and what else its runs share.
APART = "\n"
# Of the picture of neighbors.
QUERIES, SHOWN_NEIGHBORS = 6, 5
PICTURED_CLASSES = 10
# An axis of values that span more than this factor is logarithmic.
WIDE = 8
PANELS = {"teacher": "teacher's features f", "target": "targets f'", "generated": "generated features"}

# (height in data units, text, color) of the end of a line. Of several seeds, the last one's is labeled.
End = tuple[float, str, str]


def curves(runs: list[FinishedRun]) -> Figure:
    """Evaluation top-1 and training losses by epoch; for each data set and pair of networks."""
    rows, colors = by_networks(runs), colors_of(run.name for run in runs)
    heights = [(TALL, FLAT * -(-len({run.name for run in members}) // COLUMNS)) for _, members in rows]
    figure = Figure(figsize=(WIDTH, sum(map(sum, heights))), dpi=DPI, layout="constrained")
    ends: list[tuple[Axes, list[End]]] = []
    parts = parts_of(figure, [sum(pair) for pair in heights])
    for part, pair, (title, members) in zip(parts, heights, rows, strict=True):
        part.suptitle(wrapped(title), fontsize=LARGE, fontweight="bold")
        above, below = parts_of(part, pair)
        ends.append(_accuracies(above.subplots(), members, colors))
        _losses(below, members, colors)
    figure.draw_without_rendering()  # settles the sizes of the axes, which labels are spread by
    for axes, labels in ends:
        label_apart(axes, labels)
    return figure


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """By name of a run: the methods' own first, so that a method always has the same."""
    return dict(zip(dict.fromkeys([*METHODS, *names]), itertools.cycle(COLOURS), strict=False))


def by_networks(runs: list[FinishedRun]) -> list[tuple[str, list[FinishedRun]]]:
    """Runs to be seen together, with a title: of the same images and networks, optimizer and use of labels. One without
    a teacher stands beside all that train the same student."""
    distilled = {(run.comparable, run.student) for run in runs if run.teacher}
    keys = dict.fromkeys(
        (run.comparable, run.student, run.teacher)
        for run in runs
        if run.teacher or (run.comparable, run.student) not in distilled
    )
    rows = []
    for data, student, teacher in keys:
        members = [
            run for run in runs if (run.comparable, run.student) == (data, student) and run.teacher in (teacher, None)
        ]
        title, parts = f"{members[-1].networks}: {data}", _by_circumstances(members)
        rows += [(f"{title}{APART}{told}" if len(parts) > 1 else title, part) for told, part in parts.items()]
    return rows


def _by_circumstances(runs: list[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs of each optimizer, with labels and without: what differs in these answers another question."""
    parts: dict[str, list[FinishedRun]] = {}
    for run in sorted(runs, key=lambda run: run.config["unlabeled"]):
        labels = "without labels" if run.config["unlabeled"] else "with labels"
        parts.setdefault(f"{run.config['optimizer']}, {labels}", []).append(run)
    return parts


def wrapped(title: str) -> str:
    return "\n".join(textwrap.fill(line, TITLE_WIDTH) for line in title.splitlines())


def parts_of(figure: Figure | SubFigure, heights: Sequence[float]) -> Iterable[SubFigure]:
    return figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]


def _losses(part: SubFigure, runs: list[FinishedRun], colors: dict[str, str]) -> None:
    """A small panel a method, since the losses of two methods have no common scale."""
    names = list(dict.fromkeys(run.name for run in runs))
    panels = list(part.subplots(-(-len(names) // COLUMNS), COLUMNS, squeeze=False).flat)
    for spare in panels[len(names) :]:
        spare.remove()
    for name, axes in zip(names, panels[: len(names)], strict=True):
        set_up(axes, f"{name}: training loss", "epoch", colors[name])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        lines: dict[str, Line2D] = {}
        for run in (run for run in runs if run.name == name):
            records = run.records("train")
            for number, loss in enumerate(_loss_names(records)):
                width, stroke = (1.6, "-") if loss == "loss" else (1.0, STROKES[number % len(STROKES)])
                style = {"color": colors[name], "lw": width, "ls": stroke}
                (line,) = axes.plot(_epochs(run, records), [record[loss] for record in records], **style)
                lines["total" if loss == "loss" else loss] = line
        axes.legend(lines.values(), lines, fontsize=SMALL, frameon=False, handlelength=1.6, labelspacing=0.2)


def _epochs(run: FinishedRun, records: list[dict]) -> list[int]:
    """Those of earlier stages counted, so that runs of one budget end together."""
    return [run.result["earlier_epochs"] + record["epoch"] for record in records]


def _loss_names(records: list[dict]) -> list[str]:
    return [name for name in (records[0] if records else ()) if name not in NO_LOSSES]


def _accuracies(axes: Axes, runs: list[FinishedRun], colors: dict[str, str]) -> tuple[Axes, list[End]]:
    """Top-1 (or cosine) of every read-out: lines while training, dots at the end on all images."""
    sizes = sorted({record["images"] for run in runs for record in run.records("eval")})
    images = " or ".join(str(size) for size in sizes)
    title = f"lines: {images} {runs[0].result['split']} images; dots: {runs[0].result['images']}"
    set_up(axes, title, "epoch, those of earlier stages counted")
    score = runs[0].score
    axes.set_ylabel(f"{SCORES[score]} (%)", fontsize=NORMAL)
    ends: dict[tuple[str, str], End] = {}
    for run in runs:
        for number, read_out in enumerate(run.result["last"]):
            style: dict[str, Any] = {"color": colors[run.name], "ls": STROKES[number % len(STROKES)], "lw": 1.4}
            records = run.records("eval")
            axes.plot(_epochs(run, records), [record[read_out][score] for record in records], **style)
            last = run.result["last"][read_out][score]
            axes.plot(run.result["earlier_epochs"] + run.result["epochs"], last, "o", ms=4.5, color=colors[run.name])
            ends[run.name, read_out] = last, f"{run.name}, {read_out.replace('_', ' ')}", colors[run.name]
    teachers = {run.teacher_top1 for run in runs} - {None}
    for top1 in teachers:
        axes.axhline(top1, color=TEACHER, lw=1, ls=":")
    return axes, [*ends.values(), *((top1, "teacher", TEACHER) for top1 in teachers)]


def set_up(axes: Axes, title: str, horizontal: str, color: str = "black") -> None:
    """Title, horizontal axis and the looks that all panels share."""
    axes.set_title(title, fontsize=NORMAL, color=color, loc="left", pad=9)
    axes.set_xlabel(horizontal, fontsize=NORMAL)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=SMALL, length=0)
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def fit_axis(axes: Axes, values: Sequence[float]) -> None:
    """A horizontal axis for these values: logarithmic where they span more than one looks at otherwise."""
    axes.xaxis.set_major_locator(MaxNLocator(5))
    if values and max(values) > WIDE * min(values) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())


def label_apart(axes: Axes, ends: list[End], x: float | None = None) -> None:
    """Words right of heights at x, or right of the axes, pushed apart where they would overlap.

    The figure has been drawn once, so that the axes have their size.
    """
    ends, place = sorted(ends), axes.transAxes if x is None else axes.get_xaxis_transform()
    style: dict[str, Any] = {"xycoords": place, "textcoords": "offset points", "fontsize": SMALL, "va": "center"}
    heights = [axes.transLimits.transform(axes.transScale.transform((1, height)))[1] for height, *_ in ends]
    height_in_points = axes.get_window_extent().height / DPI * 72
    for height, (_, text, color) in zip(spread(heights, 1.15 * SMALL / height_in_points), ends, strict=True):
        axes.annotate(text, (1 if x is None else x, height), (6, 0), color=color, **style)


def spread(heights: list[float], gap: float) -> list[float]:
    """Ascending heights, moved so that neighbors keep a gap and none lies above 1."""
    heights = list(heights)
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    ceiling = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - gap
    return heights


def features(runs: list[FinishedRun]) -> Figure:
    """Teacher's features, targets and generated features on the teacher's principal components; a row a run."""
    heights = [2.9] * len(runs)
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout="constrained")
    for part, run in zip(parts_of(figure, heights), runs, strict=True):
        tensors = checkpoint.read(run.folder.features)
        cosine = feature_agreement(tensors["generated"].float(), tensors["target"].float())["cosine"]
        images = f"first {len(tensors['labels'])} {run.result['split']} images"
        part.suptitle(
            f"{run.name}, seed {run.config['seed']}, {run.epochs} epochs: {run.networks}\n"
            f"mean cosine of generated features and targets {cosine:.2f} ({run.data}: {images})",
            fontsize=LARGE,
        )
        _feature_panels(part.subplots(1, 3, sharex=True, sharey=True), tensors)
    return figure


def _feature_panels(panels: Sequence[Axes], tensors: dict[str, Tensor]) -> None:
    mean, directions, shares = principal_plane(tensors["teacher"].float())
    classes = tensors["labels"].unique()[:PICTURED_CLASSES]
    pictured = torch.isin(tensors["labels"], classes)
    planes = {name: (tensors[name].float()[pictured] - mean) @ directions for name in PANELS}
    wanted = torch.cat([planes["teacher"], planes["target"]])
    middle = (wanted.amin(0) + wanted.amax(0)) / 2
    half = 1.05 * (wanted - middle).abs().max()
    # A head that has not learned generates features far away; beyond a limit, they do not shrink all else.
    half = (1.05 * (planes["generated"] - middle).abs().max()).clamp(half, 1.5 * half)
    for axes, (name, points) in zip(panels, planes.items(), strict=True):
        outside = int(((points - middle).abs() > half).any(1).sum())
        title = PANELS[name] + (f" ({outside} outside)" if outside else "")
        set_up(axes, title, f"component 1 ({shares[0]:.0%} of variance)")
        for number, label in enumerate(classes.tolist()):
            chosen = points[tensors["labels"][pictured] == label]
            across, up = chosen.T.numpy()
            axes.scatter(across, up, s=7, lw=0, alpha=0.8, color=f"C{number}", label=str(label))
        x_limits, y_limits = torch.stack([middle - half, middle + half], 1).tolist()
        axes.set(xlim=x_limits, ylim=y_limits, aspect="equal")
    panels[0].set_ylabel(f"component 2 ({shares[1]:.0%})", fontsize=NORMAL)
    if not classes.tolist() or classes[0] < 0:
        return
    panels[-1].legend(
        title="class", fontsize=SMALL, title_fontsize=SMALL, markerscale=2, frameon=False, handletextpad=0.1,
        loc="center left", bbox_to_anchor=(1, 0.5),
    )  # fmt: skip


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,) of features (n, D), their first two principal directions (D, 2), and their shares of the variance.

    A direction's greatest component is positive, so that the same features always give the same picture.
    """
    mean = features.mean(0)
    _, scales, directions = torch.linalg.svd(features - mean, full_matrices=False)
    directions = directions[:2].T
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return mean, directions * signs, scales[:2].square() / scales.square().sum()


def neighbors(run: FinishedRun) -> Figure:
    """Some evaluation images, a row each, with the nearest others by the teacher's features and by the student's."""
    tensors = checkpoint.read(run.folder.features)
    images = tensors["thumbnails"].permute(0, 2, 3, 1).numpy()
    sides = {name: nearest(tensors[key][: len(images)].float(), SHOWN_NEIGHBORS)
             for name, key in (("teacher", "teacher"), ("student", "generated"))}  # fmt: skip
    figure = Figure(figsize=(WIDTH, 0.95 * min(QUERIES, len(images)) + 0.5), dpi=DPI, layout="constrained")
    columns = 1 + len(sides) * SHOWN_NEIGHBORS
    grid = figure.subplots(min(QUERIES, len(images)), columns, squeeze=False)
    titles = ["image", *(f"by the {name}" if not place else "" for name in sides for place in range(SHOWN_NEIGHBORS))]
    for query, row in enumerate(grid):
        chosen = [query, *(index for found in sides.values() for index in found[query].tolist())]
        for axes, index, title in zip(row, chosen, titles, strict=True):
            axes.imshow(images[index])
            axes.set_axis_off()
            if query == 0:
                axes.set_title(title, fontsize=SMALL, loc="left")
    figure.suptitle(f"{run.name}: nearest evaluation images ({run.data})", fontsize=LARGE)
    return figure
