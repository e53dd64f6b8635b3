"""The picture that compares methods: top-1 of the last epoch, with its standard deviation over seeds."""

import textwrap
from dataclasses import dataclass
from itertools import chain

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gendd.reporting.finished import FinishedRun
from gendd.reporting.groups import Group, by_data
from gendd.reporting.pictures import DPI, LARGE, LINE, NORMAL, SMALL, TEACHER, WIDTH, colors_of, percent_limits, set_up
from gendd.reporting.rows import Row, output_title, rows_of
from gendd.reporting.table import epochs_text, mean_text

LABEL_WIDTH, NO_BREAK = 44, "\u00a0"  # characters
# Inches around the label of a row, for a heading, and around a panel.
ROOM, HEADING, AROUND = 0.1, 0.3, 0.8


@dataclass(frozen=True)
class Section:
    """Rows to compare: the same networks, optimizer and use of labels."""

    heading: str
    rows: list[Row]

    @property
    def height(self) -> float:
        return HEADING + sum(map(_height, self.labels))

    @property
    def labels(self) -> list[str]:
        """One label per row: name, output and epochs; on further lines, the settings that differ in this section."""
        settings = [row["differing_settings"].split(", ") for row in self.rows]
        alike = set.intersection(*map(set, settings))
        own = [", ".join(word for word in words if word not in alike) for words in settings]
        return [_label(row, words) for row, words in zip(self.rows, own, strict=True)]


def comparison(groups: list[Group]) -> Figure:
    """Draw one panel per data set, with one line per row of the table, under headings."""
    panels = {data: _sections(members) for data, members in by_data(groups).items()}
    colors = colors_of((group.first.name, group.label) for group in groups)
    heights = [sum(section.height for section in sections) for sections in panels.values()]
    figure = Figure(figsize=(WIDTH, sum(height + AROUND for height in heights)), dpi=DPI, layout="constrained")
    places = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, (data, sections) in zip(places, panels.items(), strict=True):
        _panel(axes, data, sections, colors)
    return figure


def _sections(groups: list[Group]) -> list[Section]:
    """Return the sections of a data set. A run without a teacher appears in all sections of the same student."""
    runs = [group.first for group in groups]
    distilled = {run.student for run in runs if run.teacher}
    networks = dict.fromkeys((run.student, run.teacher) for run in runs if run.teacher or run.student not in distilled)
    sections: dict[str, list[Row]] = {}
    for student, teacher in networks:
        members = [run for run in runs if run.student == student and run.teacher in (teacher, None)]
        shown = [group for group in groups if group.first in members]
        for group in sorted(shown, key=lambda group: group.first.config["unlabeled"]):
            config = group.first.config
            labels = "without labels" if config["unlabeled"] else "with labels"
            heading = f"{_networks(student, teacher, members)}: {config['optimizer']}, {labels}"
            sections.setdefault(heading, []).extend(row for row in rows_of([group]) if row["top1"] is not None)
    return [Section(*section) for section in sections.items()]


def _networks(student: str, teacher: str | None, runs: list[FinishedRun]) -> str:
    top1s = sorted({f"{run.teacher_top1:.2f}" for run in runs if run.teacher_top1})
    scored = f" ({', '.join(top1s)})" if top1s else ""
    return f"{student} from {teacher}{scored}" if teacher else f"{student} alone"


def _height(label: str) -> float:
    return ROOM + LINE * len(label.splitlines())


def _panel(axes: Axes, data: str, sections: list[Section], colors: dict[str, str]) -> None:
    set_up(axes, "", "top-1 (%), mean ± standard deviation over n seeds")
    axes.set_title(data, fontsize=LARGE, fontweight="bold", loc="left")
    top, ticks, values = 0.0, {}, []
    for section in sections:
        axes.text(
            0.01, top + 0.6 * HEADING, section.heading, transform=axes.get_yaxis_transform(), fontsize=NORMAL,
            va="center", fontweight="bold", bbox={"color": "white", "pad": 1},
        )  # fmt: skip
        bottom = top + HEADING
        for row, label in zip(section.rows, section.labels, strict=True):
            middle = bottom + _height(label) / 2
            _dot(axes, row, middle, colors[row["label"]])
            ticks[middle] = label
            bottom += _height(label)
            values += [row["top1"] - (row["top1_sd"] or 0), row["top1"] + (row["top1_sd"] or 0)]
        for top1, color, stroke in _levels(section.rows, colors):
            axes.plot([top1, top1], [top + HEADING, bottom], color=color, lw=1, ls=stroke, zorder=1)
            values.append(top1)
        top = bottom
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=SMALL)
    axes.set_ylim(top, 0)
    axes.set_xlim(percent_limits(values))


def _dot(axes: Axes, row: Row, height: float, color: str) -> None:
    bars = axes.errorbar(row["top1"], height, xerr=row["top1_sd"], fmt="o", ms=4.5, capsize=3, lw=1.4, color=color)
    for artist in chain([bars.lines[0]], *bars.lines[1:]):
        artist.set_clip_on(False)
    text = f"{mean_text(row, 'top1')}, n = {row['n']}"
    axes.text(1.02, height, text, transform=axes.get_yaxis_transform(), fontsize=SMALL, color=color, va="center")


def _levels(rows: list[Row], colors: dict[str, str]) -> list[tuple[float, str, str]]:
    """Return top-1, color and stroke of the reference lines: the teacher, and networks without a teacher."""
    teachers = {(row["teacher_top1"], TEACHER, ":") for row in rows if row["teacher_top1"]}
    alone = {(row["top1"], colors[row["label"]], "--") for row in rows if not row["teacher"]}
    # Sorted, so that the same runs give the same picture.
    return sorted(teachers | alone if len(rows) > 1 else teachers)


def _label(row: Row, settings: str) -> str:
    output = "" if row["output"] == "classifier" else f", {output_title(row['output'])}"
    first = f"{row['name']}{output}, {epochs_text(row)} epochs"
    # Lines end only after a comma.
    settings = settings.replace(" ", NO_BREAK).replace(f",{NO_BREAK}", ", ")
    lines = textwrap.wrap(settings, LABEL_WIDTH, max_lines=2, break_on_hyphens=False)
    return "\n".join([first, *lines]).replace(NO_BREAK, " ")
