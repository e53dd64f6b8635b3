"""Finished runs, as their folders tell them."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gendd.errors import UserError
from gendd.methods import METHODS
from gendd.reporting.metrics import read_metrics
from gendd.runs import RunFolder


@dataclass(frozen=True)
class FinishedRun:
    folder: RunFolder

    @cached_property
    def config(self) -> dict:
        return self.folder.read("config.json")

    @cached_property
    def environment(self) -> dict:
        return self.folder.read("environment.json")

    @cached_property
    def result(self) -> dict:
        return self.folder.read("result.json")

    @cached_property
    def metrics(self) -> list[dict]:
        return read_metrics(self.folder.path)

    @property
    def name(self) -> str:
        """What tells the run from others of its data and networks."""
        return self.config["name"] or self.config["method"]

    @property
    def data(self) -> str:
        """Name of the data set and size of its images."""
        return f"{Path(self.config['dataset']).name}, {self.config['image_size']}x{self.config['image_size']} pixels"

    @property
    def evaluated_on(self) -> str:
        return f"{self.result['images']} {self.result['split']} images"

    @property
    def student(self) -> str:
        return self.config["student"]

    @property
    def teacher(self) -> str | None:
        return self.config["teacher"]

    @property
    def networks(self) -> str:
        return f"{self.teacher} to {self.student}" if self.teacher else self.student

    def records(self, kind: str) -> list[dict]:
        return [record for record in self.metrics if record["kind"] == kind]


def finished_runs(paths: Iterable[str]) -> tuple[list[FinishedRun], list[str]]:
    """The complete runs among the folders, in the order in which they are reported, and the paths of the others.

    Raises:
        UserError: a path is no run folder, or no run is complete.
    """
    runs, incomplete = [], []
    for path in paths:
        run = FinishedRun(RunFolder(Path(path)))
        methods = list(METHODS)
        order = (run.data, run.student, methods.index(run.config["method"]), run.name, run.config["seed"])
        if run.folder.result.exists():
            runs.append((order, run))
        else:
            incomplete.append(path)
    if not runs:
        raise UserError(
            f"no complete run among {', '.join(incomplete) or 'none given'}; name run folders that hold a result.json "
            "(the training command again goes on with an incomplete one)"
        )
    return [run for _, run in sorted(runs, key=lambda pair: pair[0])], incomplete
