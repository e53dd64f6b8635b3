"""Metrics of a run, in a JSON-lines file and in the loggers of --log."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from gendd.core.files import write_whole
from gendd.evaluation.scores import in_percent, score_title
from gendd.runs.folder import RunFolder
from gendd.runs.loggers import Loggers


class MetricsWriter:
    """Writer of `metrics.jsonl` and the loggers.

    Args:
        folder: the run folder.
        step: step at which the run resumes. Later records, and the final one, are dropped: that work is repeated.
        evaluated: last epoch whose evaluation is complete. Later evaluations are dropped too.
        loggers: names of loggers, see `Run.log`.
    """

    def __init__(self, folder: Path, step: int, evaluated: float = math.inf, loggers: Iterable[str] = ()):
        self.path = folder / "metrics.jsonl"
        # Last epoch to keep, per kind of record.
        last = {"train": math.inf, "eval": evaluated, "final": -1}
        records = read_metrics(folder)
        kept = [record for record in records if record["step"] <= step and record["epoch"] <= last[record["kind"]]]
        content = "".join(json.dumps(record) + "\n" for record in kept).encode()
        write_whole(self.path, lambda file: file.write(content))
        self.loggers = Loggers(loggers, RunFolder(folder), step)

    def write(self, kind: str, epoch: int, step: int, values: dict) -> None:
        """Add a record {"kind", "epoch", "step", **values}; the loggers get its numbers, nested too."""
        with open(self.path, "a") as file:
            file.write(json.dumps({"kind": kind, "epoch": epoch, "step": step, **values}) + "\n")
        self.loggers.log(dict(_scalars((kind,), values, values.get("images", 0))), step)


def read_metrics(folder: Path) -> list[dict]:
    """Return the records of a run, without an incomplete last line of a killed run."""
    path = folder / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _scalars(above: tuple[str, ...], values: dict, images: int):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _scalars((*above, name), value, images)
        elif isinstance(value, int | float):
            percent = in_percent(above[-1], name, value)
            title = name if percent is None else f"{score_title(name, images)} (%)"
            yield "/".join((*above, title)), value if percent is None else percent
