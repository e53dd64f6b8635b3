"""Training curves: the score and the losses by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from gendd.reporting.finished import FinishedRun
from gendd.reporting.groups import Group, by, by_data
from gendd.reporting.pictures import (
    DPI,
    LARGE,
    LINE,
    NORMAL,
    STROKES,
    TEACHER,
    End,
    colors_of,
    label_apart,
    log_axis,
    parts_of,
    percent_limits,
    set_up,
    width_for,
)
from gendd.reporting.rows import output_title
from gendd.runs.folder import SCORES

# Minimum height of a panel of scores and height of a panel of losses, in inches; panels of losses per line.
TALL, FLAT, COLUMNS = 3.0, 1.4, 3
NO_LOSSES = {"kind", "epoch", "step", "lr", "images_per_second", "waiting_for_data", "broken_images"}

# {title: groups with the same name and student}, for one data set.
Named = dict[str, list[Group]]


def curves(groups: Sequence[Group]) -> Figure:
    """Draw the evaluation score by epoch for each data set, and below it the training losses of each method.

    Groups and students of one method have shades of its color. Groups share a panel of losses.
    """
    sets = {data: _named(members) for data, members in by_data(groups).items()}
    colors = colors_of((group.first.name, _key(group)) for group in groups)
    heights = [(_height_of_scores(named), FLAT * -(-len(named) // COLUMNS)) for named in sets.values()]
    width = width_for(label for named in sets.values() for label in _labels(named))
    figure = Figure(figsize=(width, sum(map(sum, heights))), dpi=DPI, layout="constrained")
    ends: list[tuple[Axes, list[End]]] = []
    parts = parts_of(figure, [sum(pair) for pair in heights])
    for part, pair, (data, named) in zip(parts, heights, sets.items(), strict=True):
        part.suptitle(data, fontsize=LARGE, fontweight="bold")
        above, below = parts_of(part, pair)
        ends.append(_scores(above.subplots(), named, colors))
        ends += _losses(below, named, colors)
    figure.draw_without_rendering()  # Fixes the sizes of the axes, which `label_apart` needs.
    for axes, labels in ends:
        label_apart(axes, labels)
    return figure


def _named(groups: list[Group]) -> Named:
    several = len({group.first.student for group in groups}) > 1
    return by(lambda group: f"{group.first.name}, {group.first.student}" if several else group.first.name, groups)


def _key(group: Group) -> str:
    """Return the key of a group's color."""
    return f"{group.label} {group.first.student}"


def _labels(named: Named) -> list[str]:
    """Return the labels of all lines of scores."""
    members = [(title, group) for title, groups in named.items() for group in groups]
    outputs = [(title, group, scored_by(group.first.result["last"], group.first.score)) for title, group in members]
    return [_label(title, group, output) for title, group, names in outputs for output in names]


def _label(title: str, group: Group, output: str) -> str:
    """Return the label of an output's line: the title of its group's panel, with settings, and the output."""
    return f"{title.replace(group.first.name, group.label, 1)}, {output_title(output)}"


def _height_of_scores(named: Named) -> float:
    """Return the height in inches that all labels need."""
    teachers = {group.first.teacher for groups in named.values() for group in groups}
    return max(TALL, 1.1 + LINE * (len(teachers) + len(_labels(named))))


def scored_by(outputs: Mapping[str, Mapping[str, float]], score: str) -> list[str]:
    """Return the outputs with this score. The heads of further teachers never classify."""
    return [name for name, scores in outputs.items() if score in scores]


def _losses(part: SubFigure, named: Named, colors: dict[str, str]) -> list[tuple[Axes, list[End]]]:
    """Draw one small panel per method, because losses of different methods are not comparable."""
    panels = list(part.subplots(-(-len(named) // COLUMNS), COLUMNS, squeeze=False).flat)
    for spare in panels[len(named) :]:
        spare.remove()
    return [
        (axes, _losses_of(axes, title, groups, colors))
        for axes, (title, groups) in zip(panels, named.items(), strict=False)
    ]


def _losses_of(axes: Axes, title: str, groups: list[Group], colors: dict[str, str]) -> list[End]:
    set_up(axes, f"{title}: loss", "epoch", colors[_key(groups[0])])
    ends: dict[str, End] = {}
    drawn: list[float] = []
    for color, run in [(colors[_key(group)], run) for group in groups for run in group.runs]:
        records = run.records("train")
        for number, loss in enumerate(_loss_names(records)):
            width, stroke = (1.6, "-") if loss == "loss" else (1.0, STROKES[number % len(STROKES)])
            values = [record[loss] for record in records]
            axes.plot(_epochs(run, records), values, color=color, lw=width, ls=stroke)
            drawn += [value for value in values if value > 0]
            ends[loss] = values[-1], "total" if loss == "loss" else loss.replace("_", " "), color
    if not drawn:
        return []
    log_axis(axes.yaxis, drawn)
    # A logarithmic axis cannot show 0.
    return [(max(height, min(drawn)), text, color) for height, text, color in ends.values()]


def _epochs(run: FinishedRun, records: list[dict]) -> list[int]:
    """Return the epochs of the records, including earlier stages, so that runs of one budget end together."""
    return [run.result["earlier_epochs"] + record["epoch"] for record in records]


def _loss_names(records: list[dict]) -> list[str]:
    return [name for name in (records[0] if records else ()) if name not in NO_LOSSES]


def _scores(axes: Axes, named: Named, colors: dict[str, str]) -> tuple[Axes, list[End]]:
    """Draw the score of every output: lines during training, dots for the final evaluation on all images."""
    members = [(title, group, run) for title, groups in named.items() for group in groups for run in group.runs]
    runs = [run for *_, run in members]
    sizes = sorted({record["images"] for run in runs for record in run.records("eval")})
    images = " or ".join(str(size) for size in sizes)
    heading = f"lines: {images} {runs[0].result['split']} images; dots: {runs[0].result['images']}"
    set_up(axes, heading, "epoch, including earlier stages")
    score = runs[0].score
    axes.set_ylabel(f"{SCORES[score]} (%)", fontsize=NORMAL)
    ends: dict[str, End] = {}
    drawn: list[float] = []
    for title, group, run in members:
        color, records = colors[_key(group)], run.records("eval")
        for number, output in enumerate(scored_by(run.result["last"], score)):
            style: dict[str, Any] = {"color": color, "ls": STROKES[number % len(STROKES)], "lw": 1.4}
            values = [record[output][score] for record in records]
            axes.plot(_epochs(run, records), values, **style)
            last = run.result["last"][output][score]
            epoch = run.result["earlier_epochs"] + run.result["epochs"]
            axes.plot(epoch, last, "o", ms=4.5, color=color, clip_on=False)
            label = _label(title, group, output)
            ends[label] = last, label, color
            drawn += [*values, last]
    teachers = {(run.teacher_top1, f"teacher {run.teacher}", TEACHER) for run in runs if run.teacher_top1}
    for top1, *_ in teachers:
        axes.axhline(top1, color=TEACHER, lw=1, ls=":")
    axes.set_ylim(percent_limits([*drawn, *(top1 for top1, *_ in teachers)]))
    named_teachers = {text: (top1, text, color) for top1, text, color in sorted(teachers)}
    return axes, [*ends.values(), *named_teachers.values()]
