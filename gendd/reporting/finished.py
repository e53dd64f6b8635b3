"""Finished runs, as their folders tell them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gendd.config import Config
from gendd.core.errors import UserError
from gendd.methods import METHODS, Classification, get_method
from gendd.networks import checkpoint
from gendd.runs.folder import NOT_COMPARED, SCORES, RunFolder, by_name, data_label
from gendd.runs.metrics import read_metrics

# Not told by their flags: `FinishedRun.settings` says what stands for them.
FILES = {"teacher_weights", "student_weights", "teacher_cache"}
DATA = {"dataset", "unlabeled_dir", "imbalance", "label_fraction"}


@dataclass(frozen=True)
class FinishedRun:
    folder: RunFolder

    @cached_property
    def config(self) -> dict:
        """All values by their fields' names; fields that are newer than the run have their defaults."""
        content = self.folder.read("config.json")
        name = content["method"]["name"]
        # No report runs a user's own code: a run of an own method holds all of its options.
        kind = Classification if ":" in name else get_method(name)
        return by_name(Config(method=kind()).content()) | by_name(content)

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
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def settings(self) -> dict:
        """All that the results follow from but for the seed: only where these agree may runs share a mean.

        A teacher is told by the checksum of its file or, without one, of its tensors; the run that the student goes on
        from by its own settings.
        """
        told_otherwise = {*NOT_COMPARED, *FILES, *DATA, "seed"}
        settings = {name: value for name, value in self.config.items() if name not in told_otherwise}
        settings["data"] = data_label(self.config)
        settings |= {name: self.result[name] for name in ("precision", "processes", "split", "images")}
        settings |= {"name": self.name, "earlier_epochs": self.result["earlier_epochs"]}
        teacher = self.environment.get("teacher", {})
        settings["teacher_sha256"] = teacher.get("sha256") or teacher.get("tensors_sha256")
        settings["teacher_cache"] = bool(self.config["teacher_cache"])
        if self.earlier:
            return settings | {f"earlier {name}": value for name, value in self.earlier.settings.items()}
        return settings | {"student_weights": self.config["student_weights"]}

    @cached_property
    def earlier(self) -> "FinishedRun | None":
        """The run that the student starts from, stage 1 or the run of its weights, if it is there."""
        if self.config.get("pretrain_epochs"):
            path = self.folder.path.parent.parent / self.config["pretrain_name"] / str(self.seed)
        else:
            path = Path(self.config["student_weights"] or "none")
        run = FinishedRun(RunFolder(path))
        return run if run.folder.result.exists() else None

    @property
    def epochs(self) -> str:
        """Budget: the epochs of the runs that the student goes on from, and its own."""
        earlier = self.result["earlier_epochs"]
        return f"{earlier} + {self.result['epochs']}" if earlier else str(self.result["epochs"])

    @property
    def data(self) -> str:
        """Name of the data set and size of its images."""
        return f"{data_label(self.config)}, {self.config['image_size']}x{self.config['image_size']} pixels"

    @property
    def evaluated_on(self) -> str:
        return f"{self.result['images']} {self.result['split']} images"

    @property
    def comparable(self) -> str:
        """The same for all runs whose accuracies can be compared."""
        return f"{self.data}, {self.evaluated_on}"

    @property
    def student(self) -> str:
        return self.config["student"]

    @property
    def teacher(self) -> str | None:
        return self.config["teacher"]

    @property
    def teacher_top1(self) -> float | None:
        """Of a teacher that classifies."""
        return self.environment.get("teacher", {}).get("top1")

    @property
    def score(self) -> str:
        """What it is judged by: "top1", or, without classes, "cosine"."""
        return next(name for name in SCORES if name in self.result["best"])

    @property
    def shows_images(self) -> bool:
        """Whether small copies of its evaluation images lie beside their features."""
        return self.folder.features.exists() and "thumbnails" in checkpoint.tensor_names(self.folder.features)

    @property
    def networks(self) -> str:
        return f"student {self.student}" + (f", teacher {self.teacher}" if self.teacher else "")

    def records(self, kind: str) -> list[dict]:
        return [record for record in self.metrics if record["kind"] == kind]


def finished_runs(paths: Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
    """The complete runs among the folders, in the order in which they are reported, and the paths of the others.

    Raises:
        UserError: a path is no run folder, or no run is complete.
    """
    if not paths:
        raise UserError("RUN is missing: name run folders that hold a result.json")
    runs, incomplete = [], []
    for path in dict.fromkeys(paths):
        run = FinishedRun(RunFolder(Path(path)))
        # Read at once: it raises if the path is no run folder.
        if run.config and run.folder.result.exists():
            runs.append(run)
        else:
            incomplete.append(path)
    if not runs:
        raise UserError(
            f"RUN {' '.join(paths)}: no complete run; name run folders that hold a result.json "
            "(an incomplete run goes on when its training command is given again)"
        )
    return sorted(runs, key=_place), incomplete


def _place(run: FinishedRun) -> tuple:
    """Order in reports: longer runs and later seeds of a method come last."""
    # A user's own methods come after the others.
    method = [*METHODS, run.config["method"]].index(run.config["method"])
    return run.comparable, run.student, method, run.name, run.result["epochs"], run.seed
