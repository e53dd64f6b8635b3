"""Run folders: everything that resumes, evaluates, reports or exports a run lies in its folder.

config.json         resolved configuration, and the family it is for
data.json           names of the classes, numbers of images, of all and of each class
environment.json    versions, git commit, hardware, processes, the teacher's checksums and measured accuracy
metrics.jsonl       one record a line: losses of an epoch, or accuracies of an evaluation
tensorboard/        the same for TensorBoard
checkpoints/        last.pt and best.pt: the trained weights, their average if there is one, and which the run reports
result.json         final accuracies, cost of each read-out; exists once the run is complete
features.safetensors  some generated features beside their targets (GenDD runs)
student/            the plain student of the last checkpoint with the reported weights, its linear probe as classifier:
                    model.safetensors and config.json, as timm's local-dir: has them
student.safetensors link to student/model.safetensors
writer.lock         who writes here; exists while the run is at work (gendd/runs/lock.py)
"""

import dataclasses
import json
import pickle
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gendd.config import Config, Run
from gendd.core.distributed import World, hardware
from gendd.core.errors import InvalidSetting, InvalidValue, UserError
from gendd.core.files import write_whole
from gendd.core.retry import retried
from gendd.data.batch import EvaluationData, TrainingData, class_difference, identity
from gendd.family import Family
from gendd.methods import get_method
from gendd.networks.checkpoint import metadata
from gendd.networks.file_format import is_safetensors

# Where things lie and how the result is measured; not what is trained.
NOT_COMPARED = {
    *Run.of_command,
    *("runs", "data_root", "workers", "eval_every", "eval_images", "teacher_chunk", "grad_checkpointing"),
    "paper",  # The values that it sets are compared.
}
# Before the names of read-outs with averaged weights, in metrics and results.
AVERAGED = "ema_"
# Key of the run's record, JSON text, in a checkpoint.
RECORD = "run"
# What a run is judged by: its classes, or, without any, its features.
SCORES = {"top1": "top-1", "cosine": "cosine"}
PACKAGES = ("torch", "torchvision", "timm", "numpy", "safetensors", "tensorboard")


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def features(self) -> Path:
        return self.path / "features.safetensors"

    @property
    def student(self) -> Path:
        return self.path / "student"

    @property
    def student_file(self) -> Path:
        return self.path / "student.safetensors"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def read(self, name: str) -> dict:
        """Content of one of the folder's JSON files.

        Raises:
            UserError: it is missing or damaged.
        """
        try:
            content = json.loads(retried((self.path / name).read_text, self.path / name))
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
            return content
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.path.absolute()}: no run folder, {name} is missing or damaged; name the run's folder"
            ) from error

    def write(self, name: str, content: dict) -> None:
        write_whole(self.path / name, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))

    def config(self, family: Family) -> Config:
        """Return the configuration that the run was made with. Raises UserError as `saved_config` does."""
        return saved_config(self.read("config.json"), family, self.path)

    def check(self, config: Config, family: Family, set_by: Mapping[str, str] | None = None) -> None:
        """Refuse a folder whose run has another configuration, where that changes what is trained.

        Args:
            set_by: {field: option that sets it}, where the names differ, as in a stage 1.
        """
        if not (self.path / "config.json").exists():
            return
        options = set_by or {}
        theirs, mine = (by_name(one.content()) for one in (self.config(family), config))
        differing = [
            f"`{options.get(name, name)}` {theirs.get(name)} there, {mine[name]} here"
            for name in sorted(mine.keys() - NOT_COMPARED)
            if theirs.get(name) != mine[name]
        ]
        if differing:
            remedy = f"repeat them, choose another `{options.get('name', 'name')}` or `seed`, or delete the folder"
            if config.run.resume:
                remedy = "leave them out beside `resume`"
            raise UserError(f"{self.path} holds a run with other settings: {'; '.join(differing)}; {remedy}")

    def check_data(self, training: TrainingData, evaluation: EvaluationData) -> str:
        """Refuse to go on with other classes, or another number of training images, than the run began with.

        Returns:
            what has changed of the evaluation's images, in words: it changes nothing in what is trained.
        """
        if not (self.last.exists() and (self.path / "data.json").exists()):
            return ""
        theirs, mine = self.read("data.json"), identity(training, evaluation)
        changed = {
            name: f"{theirs[name]} {name} there, {mine[name]} here"
            for name in ("training images", "evaluation images")
            if theirs[name] != mine[name]
        }
        evaluated = changed.pop("evaluation images", "")
        if difference := class_difference(theirs["classes"], mine["classes"]):
            changed["classes"] = f"other classes, {difference}"
        if changed:
            raise UserError(
                f"{self.path} holds a run of other data: {'; '.join(changed.values())}; give it the data it began "
                "with, choose another `name` or `seed`, or delete the folder"
            )
        return evaluated

    def check_teacher(self, mine: Mapping[str, Any]) -> None:
        """Refuse to resume with other weights of the teacher than the run began with.

        Args:
            mine: the teacher's record, as environment.json keeps it. Older runs hold no checksum of the tensors.
        """
        if not (self.last.exists() and (self.path / "environment.json").exists()):
            return
        theirs = self.read("environment.json").get("teacher", {})
        name = next((name for name in ("tensors_sha256", "sha256") if theirs.get(name)), None)
        if name and theirs[name] != mine[name]:
            raise UserError(
                f"{self.path} holds a run of another teacher: {theirs['weights']} had sha256 {theirs[name][:12]}, "
                f"{mine['weights']} has {str(mine[name])[:12]}; give it the teacher it began with, choose another "
                "`name` or `seed`, or delete the folder"
            )

    def claim(self, config: Config, family: Family, training: TrainingData, evaluation: EvaluationData) -> None:
        """Make the folder this configuration's and this data's."""
        self.last.parent.mkdir(parents=True, exist_ok=True)
        self.write("config.json", {"family": family.name, **config.content()})
        self.write("data.json", identity(training, evaluation))

    def headline(self) -> str:
        """The result in a line."""
        result = self.read("result.json")
        score = next(name for name in SCORES if name in result["best"])
        scores = ", ".join(f"{name} {scored[score]:.2f} %" for name, scored in result["last"].items())
        best, epochs = result["best"], f"{result['epochs']} epoch{'s' * (result['epochs'] > 1)}"
        return (
            f"{SCORES[score]} after {epochs} on {result['images']} {result['split']} images: {scores} "
            f"(best {best['read_out']} {best[score]:.2f} % after epoch {best['epoch']}, chosen on {best['images']} "
            f"{best['split']} images)"
        )


def progress(path: Path, epoch: int | None) -> str:
    """Return after which epoch a run's checkpoint was saved, and that the run is unfinished; nothing of other files."""
    run = RunFolder(path)
    if epoch is None or not (path / "config.json").exists():
        return ""
    epochs = run.read("config.json")["optimizer"]["epochs"]
    lacks = "its final evaluation" if epoch == epochs else f"{epochs - epoch} epochs"
    unfinished = "" if run.result.exists() else f": the run is unfinished, it lacks {lacks}"
    return f", after epoch {epoch} of {epochs}{unfinished}"


def check_classes(checkpoint: Path, class_names: Sequence[str | None], given: tuple[str, object] | None = None) -> None:
    """Refuse images of other classes than a run, or a run's plain student, was trained on, where both are known.

    Args:
        given: the setting, with its value, that named the checkpoint; None for a program's argument.
    """
    learned = learned_classes(checkpoint)
    if learned and (difference := class_difference(learned, class_names)):
        field, value = given or ("", checkpoint)
        reason = f"has learned other classes than the images to evaluate on are of; {difference}"
        raise InvalidSetting(field, value, f"{reason}; name a data set with the same class folders")


def class_subset(checkpoint: Path, class_names: Sequence[str | None]) -> list[int] | None:
    """Numbers of a run's classes that images of only some of them are of, such as ImageNet-A's 200; None of all."""
    number = {name: place for place, name in enumerate(learned_classes(checkpoint))}
    some = len(class_names) < len(number) and None not in number and set(class_names) <= set(number)
    return [number[name] for name in class_names] if some and class_names else None


def learned_classes(checkpoint: Path) -> list[str | None]:
    """Of a run, its checkpoint files or its plain student; none where they are not known."""
    run = RunFolder(checkpoint if checkpoint.is_dir() else checkpoint.parent.parent)
    if checkpoint in (run.path, run.last, run.best) and (run.path / "data.json").exists():
        return run.read("data.json")["classes"]
    return embedded_record(checkpoint).get("classes", [])


def run_path(config: Config) -> Path:
    """runs/<data>/<teacher>_<student>/<method>/<seed>; without a teacher, the student alone."""
    pair = "_".join(_as_folder(name) for name in (config.networks.teacher, config.networks.student) if name)
    data, run = data_label(dataclasses.asdict(config.data)), config.run
    return Path(run.runs, data, pair, run.name or _as_folder(config.method.name), str(run.seed))


def saved_config(record: Mapping[str, Any], family: Family, path: Path) -> Config:
    """Return the configuration in a run's record; fields that are newer than the run have their defaults.

    Raises:
        UserError: a damaged record, one of another family, or one with options that this version does not know.
    """
    if record.get("family") != family.name:
        raise UserError(f"{path.absolute()}: a run of {record.get('family')}, not of {family.name}")
    try:
        method = get_method(record["method"]["name"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path.absolute()}: its configuration names no method; name another run") from error
    except InvalidValue as error:
        raise UserError(f"{path}: method {error}") from error
    config = family.config(method()).filled(record)
    known = by_name(config.content())
    if unknown := [name for name, value in by_name(record).items() if name not in known and value not in (None, False)]:
        raise UserError(
            f"{path.absolute()}: a run of another version, with unknown options {', '.join(unknown)}; use the version "
            "that made it"
        )
    return config


def embedded_record(path: Path) -> dict[str, Any]:
    """Return the record of the run that wrote a checkpoint or a plain student; empty for other files."""
    try:
        if is_safetensors(path):
            return json.loads(metadata(path)["config"])["gendd"][RECORD]
        # Mapped to memory: no tensor is read.
        return json.loads(torch.load(path, map_location="meta", mmap=True, weights_only=True)[RECORD])
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError):
        return {}


def run_record(path: Path) -> dict[str, Any]:
    """Return what is known of a run: family, configuration and class names, from its folder or one of its files.

    Raises:
        UserError: a damaged run folder, or a file that holds no configuration.
    """
    if path.is_dir():
        run = RunFolder(path)
        return {**run.read("config.json"), "classes": run.read("data.json")["classes"]}
    if not (record := embedded_record(path)):
        raise UserError(f"{path}: holds no configuration; name the run folder")
    return record


def by_name(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return all values of a configuration's content by their fields' names, and the method's name as "METHOD"."""
    parts = [part for part in content.values() if isinstance(part, Mapping)]
    return {name: value for part in parts for name, value in part.items()} | {
        "name": content["run"]["name"],
        "method": content["method"]["name"],
    }


def data_label(settings: Mapping[str, Any]) -> str:
    """Return the name of the data that a run learns from, such as "cifar100-lt0.01".

    Args:
        settings: values of the data set and of what is made of its training images; those that lack are not set.
    """
    name = data_name(settings["dataset"])
    if settings.get("unlabeled_dir"):
        name += f"-from-{Path(settings['unlabeled_dir']).name}"
    for setting, letters in (("imbalance", "lt"), ("label_fraction", "labels")):
        if settings.get(setting, 1) != 1:
            name += f"-{letters}{settings[setting]:g}"
    return name


def stage1_run(config: Config) -> RunFolder | None:
    """Return the run folder of stage 1; None without one."""
    first = config.method.pretraining(config)
    return RunFolder(run_path(first)) if first else None


def earlier_epochs(config: Config) -> int:
    """Return the epochs of the runs that the student starts from: stage 1, or the run of its weights."""
    before = stage1_run(config) or RunFolder(Path(config.networks.student_weights or "none"))
    if not before.result.exists():
        return 0
    result = before.read("result.json")
    return result["epochs"] + result["earlier_epochs"]


def data_name(dataset: str) -> str:
    """The last part of a data set's path; of shards, files that one pattern names, that of their folder's."""
    path = Path(dataset)
    is_shard = any(ending in path.name.lower() for ending in (".tar", ".tgz"))
    return _as_folder(path.parent.name or path.stem if is_shard else path.name)


def _as_folder(name: str) -> str:
    return Path(name).name.replace(":", ".")


def environment(world: World) -> dict:
    """What a figure needs beside it to be understood."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "git_commit": git_commit(),
        "hardware": hardware(world.device),
        "processes": world.size,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of this code, marked "+changes" where the files differ from it; None outside a git checkout."""
    root = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
