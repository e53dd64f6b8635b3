"""Finished runs, read from their folders."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gendd.config import Config
from gendd.core.errors import UserError
from gendd.core.ranges import field_names
from gendd.methods import METHODS, Classification, get_method
from gendd.methods.dense import DenseOptions
from gendd.methods.finetune import Finetune
from gendd.networks import checkpoint
from gendd.runs.folder import CHECKSUMS, NOT_COMPARED, SCORES, RunFolder, by_name, data_label
from gendd.runs.metrics import read_metrics

# Flags that `FinishedRun.settings` replaces by checksums, names of data, or settings of an earlier run.
FILES = {"teacher_weights", "student_weights", "teacher_cache"}
DATA = {"dataset", "unlabeled_dir", "imbalance", "label_fraction"}


@dataclass(frozen=True)
class FinishedRun:
    folder: RunFolder

    @cached_property
    def config(self) -> dict:
        """All values of the configuration by field; fields that are newer than the run have their defaults."""
        content = self.folder.read("config.json")
        return by_name(self._defaults(content)) | by_name(content)

    @cached_property
    def method_defaults(self) -> dict:
        """The defaults of the method's options; empty for a user's method."""
        return self._defaults(self.folder.read("config.json"))["method"]

    @staticmethod
    def _defaults(content: dict) -> dict:
        name = content["method"]["name"]
        # A report does not run a user's code: the run of a user's method records all of its options.
        kind = Classification if ":" in name else get_method(name)
        return Config(method=kind()).content()

    @cached_property
    def environment(self) -> dict:
        return self.folder.read("environment.json")

    @cached_property
    def result(self) -> dict:
        content = self.folder.read("result.json")
        if not {"last", "best", "images", "split"} <= content.keys():
            raise UserError(
                f"RUN {self.folder.path}: its result.json is incomplete; delete it and repeat the training command"
            )
        return content

    @cached_property
    def metrics(self) -> list[dict]:
        return read_metrics(self.folder.path)

    @property
    def name(self) -> str:
        """The name of the run among runs of the same data and networks: --name, or the method."""
        return self.config["name"] or self.config["method"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @cached_property
    def settings(self) -> dict:
        """All settings that determine the results, except the seed. Runs share a mean only if these agree.

        The checksum of its file (or of its tensors, without a file) identifies a teacher. The run that the student
        starts from is identified by its settings. Checksums of the data are included if they are known.
        """
        replaced = {*NOT_COMPARED, *FILES, *DATA, "seed"}
        if not self.config.get("dense_grid"):
            replaced |= {name for name in field_names(DenseOptions) if name != "dense_grid"}
        settings = {name: value for name, value in self.config.items() if name not in replaced}
        settings["data"] = data_label(self.config)
        settings |= {name: self.result[name] for name in ("precision", "processes", "split", "images")}
        settings |= {"name": self.name, "earlier_epochs": self.result["earlier_epochs"]}
        teacher = self.environment.get("teacher", {})
        settings["teacher_sha256"] = teacher.get("sha256") or teacher.get("tensors_sha256")
        sums = [one.get("sha256") or one.get("tensors_sha256") for one in self.environment.get("more_teachers", [])]
        further = itertools.zip_longest(settings["more_teachers"], sums)
        identified = [one | {"teacher_weights": checksum} for one, checksum in further if one]
        settings["more_teachers"] = [" ".join(str(value) for value in one.values() if value) for one in identified]
        settings["teacher_cache"] = bool(self.config["teacher_cache"])
        settings |= self._checksums
        if self.earlier:
            earlier = {name: value for name, value in self.earlier.settings.items() if name not in CHECKSUMS}
            return settings | {f"earlier {name}": value for name, value in earlier.items()}
        return settings | {"student_weights": self.config["student_weights"]}

    @property
    def _checksums(self) -> dict[str, str]:
        """The known checksums of the data. Older runs, and data without files, do not have them."""
        data = self.folder.data() if (self.folder.path / "data.json").exists() else {}
        return {name: data[name] for name in CHECKSUMS if data.get(name)}

    @cached_property
    def earlier(self) -> "FinishedRun | None":
        """The run that the student starts from (stage 1, or the run of its weights), if its folder exists."""
        # Finetune accepts the flags of a recipe, and has no stage 1.
        if self.config.get("pretrain_epochs") and self.config["method"] != Finetune.name:
            path = self.folder.path.parent.parent / self.config["pretrain_name"] / str(self.seed)
        else:
            path = Path(self.config["student_weights"] or "none")
        run = FinishedRun(RunFolder(path))
        return run if run.folder.result.exists() else None

    @property
    def epochs(self) -> str:
        """Epochs of the run, with the epochs of the runs that the student starts from, such as "50 + 240"."""
        earlier = self.result["earlier_epochs"]
        return f"{earlier} + {self.result['epochs']}" if earlier else str(self.result["epochs"])

    @property
    def data(self) -> str:
        """Name of the data set and image size."""
        return f"{data_label(self.config)}, {self.config['image_size']}x{self.config['image_size']} pixels"

    @property
    def evaluated_on(self) -> str:
        return f"{self.result['images']} {self.result['split']} images"

    @property
    def comparable(self) -> str:
        """A name that is the same for all runs with comparable accuracies."""
        return f"{self.data}, {self.evaluated_on}"

    @property
    def student(self) -> str:
        return self.config["student"]

    @property
    def teacher(self) -> str | None:
        """Name of the teacher; the names of several, joined by +."""
        names = (self.config["teacher"], *(one["teacher"] for one in self.more_teachers))
        return " + ".join(filter(None, names)) or None

    @property
    def more_teachers(self) -> list[dict]:
        """Settings of the teachers after the first one."""
        return self.config["more_teachers"]

    @property
    def teacher_top1(self) -> float | None:
        """Measured top-1 of a teacher that classifies."""
        return self.environment.get("teacher", {}).get("top1")

    @property
    def score(self) -> str:
        """The main score: "top1", or "cosine" without classes."""
        return next(name for name in SCORES if name in self.result["best"])

    @property
    def shows_images(self) -> bool:
        """True if the features come with small copies of the evaluation images."""
        return self.folder.features.exists() and "thumbnails" in checkpoint.tensor_names(self.folder.features)

    @property
    def place(self) -> tuple:
        """The sort key of reports: methods in their order, longer runs last."""
        # A user's methods come after the others.
        method = [*METHODS, self.config["method"]].index(self.config["method"])
        return self.comparable, self.student, method, self.name, self.teacher or "", self.result["epochs"]

    @property
    def networks(self) -> str:
        return f"student {self.student}" + (f", teacher {self.teacher}" if self.teacher else "")

    def records(self, kind: str) -> list[dict]:
        return [record for record in self.metrics if record["kind"] == kind]


def finished_runs(paths: Sequence[str]) -> tuple[list[FinishedRun], list[str]]:
    """Return the complete runs among the folders in the order of reports, and the paths of the others.

    Raises:
        UserError: a path is not a run folder, or no run is complete.
    """
    if not paths:
        raise UserError("RUN is missing: name run folders that hold a result.json")
    runs, incomplete = [], []
    for path in dict.fromkeys(paths):
        run = FinishedRun(RunFolder(Path(path)))
        # Read now: this raises if the path is not a run folder, or its result is damaged.
        if run.config and run.folder.result.exists() and run.result:
            runs.append(run)
        else:
            incomplete.append(path)
    if not runs:
        raise UserError(
            f"RUN {' '.join(paths)}: no complete run; name run folders that hold a result.json "
            "(to complete a run, run its training command again)"
        )
    return sorted(runs, key=lambda run: (run.place, run.seed)), incomplete
