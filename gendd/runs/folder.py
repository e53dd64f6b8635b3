"""Run folders. A run folder contains all files to resume, evaluate, report or export its run.

config.json         resolved configuration and its family
data.json           names of the classes, number of images, number of training images per class, and checksums of the
                    names and sizes of their files, and of the contents of up to 1,000 of them
environment.json    versions, git commit, hardware, processes, the teacher's checksums and measured accuracy
metrics.jsonl       one record per line: losses of an epoch, or accuracies of an evaluation
tensorboard/        the same metrics for TensorBoard
loggers.json        ids of the run in the other loggers of --log
checkpoints/        last.pt and best.pt: trained weights, their moving average with --ema-decay, and which of them the
                    run reports
result.json         final accuracies and inference cost of each output; exists once the run is complete
features.safetensors  some generated features with their targets (GenDD runs)
maps.safetensors      some images with the maps of teacher and dense head (runs with a dense term)
student/            the plain student of the last checkpoint with the reported weights; its classifier is the linear
                    probe. model.safetensors and config.json have the format of timm's local-dir:
student.safetensors link to student/model.safetensors
writer.lock         the process that writes here; exists while the run is active (gendd/runs/lock.py)
"""

import dataclasses
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gendd.config import Config, Run
from gendd.core.errors import InvalidSetting, UserError
from gendd.core.files import write_whole
from gendd.core.ranges import fits
from gendd.core.retry import retried
from gendd.data.batch import EvaluationData, TrainingData, class_difference, identity
from gendd.family import Family
from gendd.network_settings import TeacherNetwork
from gendd.networks.checkpoint import metadata
from gendd.networks.file_format import is_safetensors, what_it_is
from gendd.runs.config_file import config_of

# Fields that may differ when a run resumes: paths, evaluation and memory. They do not change the trained weights.
NOT_COMPARED = {
    *Run.of_command,
    *("runs", "out", "log", "data_root", "workers", "eval_every", "eval_images", "teacher_chunk", "grad_checkpointing"),
    *("checkpoint_minutes", "checkpoint_steps", "keep_checkpoints"),
    "paper",  # The fields that it sets are compared.
}
# Prefix of outputs with averaged weights, in metrics and results.
AVERAGED = "ema_"
# Key of the run's record (JSON text) in a checkpoint.
RECORD = "run"
# Score of a run: top-1 accuracy, or cosine similarity of features without classes.
SCORES = {"top1": "top-1", "cosine": "cosine"}
# Types of the values in data.json. Older runs recorded no checksums.
DATA = {
    "classes": tuple[str | None, ...],
    "training images": int,
    "evaluation images": int,
    "training images of each class": tuple[int, ...] | None,
    "training files": str | None,
    "training contents": str | None,
    "evaluation files": str | None,
}
CHECKSUMS = ("training files", "training contents", "evaluation files")


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
    def maps(self) -> Path:
        return self.path / "maps.safetensors"

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
        """Return the content of a JSON file of the folder.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            text = retried((self.path / name).read_text, self.path / name)
            # Older runs have the former word for outputs.
            content = json.loads(text.replace('"read_out', '"output'))
            if not isinstance(content, dict):
                raise ValueError("no JSON object")
            return content
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self.path.absolute()}: not a run folder, {name} is missing or damaged; name the folder of a run"
            ) from error

    def data(self) -> dict:
        """Return the identity of the run's data.

        Raises:
            UserError: data.json is missing or damaged.
        """
        content = {**dict.fromkeys(CHECKSUMS), **self.read("data.json")}
        if not all(name in content and fits(content[name], kind) for name, kind in DATA.items()):
            raise UserError(f"{self.path.absolute()}: its data.json is damaged; name the folder of a run")
        return content

    def write(self, name: str, content: dict) -> None:
        write_whole(self.path / name, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))

    def config(self, family: Family) -> Config:
        """Return the configuration of the run.

        Raises:
            UserError: see `saved_config`.
        """
        return saved_config(self.read("config.json"), family, self.path)

    def check(self, config: Config, family: Family, set_by: Mapping[str, str] | None = None) -> None:
        """Raise UserError if the folder's run has another configuration, except for fields that do not affect training.

        Args:
            set_by: {field: option that sets it} for stage 1, whose options have other names.
        """
        if not (self.path / "config.json").exists():
            return
        options = set_by or {}
        other = "`out`" if config.run.out else f"`{options.get('name', 'name')}` or `seed`"
        elsewhere = f"choose another {other}, or delete the folder"
        saved, given = (_compared(one) for one in (self.config(family), config))
        if saved["method"] != given["method"]:
            raise UserError(f"{self.path} holds a run of {saved['method']}, not {given['method']}; {elsewhere}")
        differing = [
            f"`{options.get(name, name)}` {saved.get(name)} there, {given[name]} here"
            for name in sorted(given.keys() - NOT_COMPARED)
            if saved.get(name) != given[name]
        ]
        if differing:
            remedy = "leave them out with `resume`" if config.run.resume else f"use the same, {elsewhere}"
            raise UserError(f"{self.path} holds a run with other settings: {'; '.join(differing)}; {remedy}")

    def check_data(self, training: TrainingData, evaluation: EvaluationData) -> str:
        """Raise UserError if the classes or the training images changed since the start of the run.

        Returns:
            a description of changed evaluation images, which do not affect training; empty without a change.
        """
        if not (self.last.exists() and (self.path / "data.json").exists()):
            return ""
        saved, given, changed = self.data(), identity(training, evaluation), {}
        for images in ("training images", "evaluation images"):
            files = images.replace("images", "files")
            if saved[images] != given[images]:
                changed[images] = f"{saved[images]} {images} there, {given[images]} here"
            elif saved[files] and saved[files] != given[files]:
                changed[images] = f"as many {images}, but their files have other names or sizes"
        if saved["training contents"] and saved["training contents"] != given["training contents"]:
            same_files = "as many training images of the same names and sizes, but with other contents"
            changed.setdefault("training images", same_files)
        evaluated = changed.pop("evaluation images", "")
        if difference := class_difference(saved["classes"], given["classes"]):
            changed["classes"] = f"other classes, {difference}"
        if changed:
            raise UserError(
                f"{self.path} holds a run of other data: {'; '.join(changed.values())}; use the original data, "
                "choose another `name`, `seed` or `out`, or delete the folder"
            )
        return evaluated

    def check_teachers(self, given: Sequence[Mapping[str, Any]]) -> None:
        """Raise UserError if a teacher's weights changed since the start of the run.

        Args:
            given: the teachers' records for environment.json. Records of older runs do not contain `tensors_sha256`.
        """
        if not (self.last.exists() and (self.path / "environment.json").exists()):
            return
        environment = self.read("environment.json")
        records = [environment.get("teacher", {}), *environment.get("more_teachers", [])]
        # The first stage of a run may have fewer teachers.
        for saved, own in zip(records, given, strict=False):
            name = next((name for name in ("tensors_sha256", "sha256") if saved.get(name)), None)
            if name and saved[name] != own[name]:
                raise UserError(
                    f"{self.path} holds a run of another teacher: {saved['weights']} had sha256 {saved[name][:12]}, "
                    f"{own['weights']} has {str(own[name])[:12]}; use the original teacher, choose another "
                    "`name` or `seed`, or delete the folder"
                )

    def claim(self, config: Config, family: Family, training: TrainingData, evaluation: EvaluationData) -> None:
        """Write the configuration and the identity of the data to the folder."""
        self.last.parent.mkdir(parents=True, exist_ok=True)
        self.write("config.json", {"family": family.name, **config.content()})
        self.write("data.json", identity(training, evaluation))

    def headline(self) -> str:
        """Return the result in one line."""
        result = self.read("result.json")
        score = next(name for name in SCORES if name in result["best"])
        scored = {name: scores[score] for name, scores in result["last"].items() if score in scores}
        scores = ", ".join(f"{name} {value:.2f} %" for name, value in scored.items())
        best, epochs = result["best"], f"{result['epochs']} epoch{'s' * (result['epochs'] > 1)}"
        return (
            f"{SCORES[score]} after {epochs} on {result['images']} {result['split']} images: {scores} "
            f"(best {best['output']} {best[score]:.2f} % after epoch {best['epoch']}, chosen on {best['images']} "
            f"{best['split']} images)"
        )


def progress(path: Path, epoch: float | None) -> str:
    """Describe the epoch of a run's checkpoint and whether the run is complete; empty for other files."""
    run = RunFolder(path)
    if epoch is None or not (path / "config.json").exists():
        return ""
    epochs = run.read("config.json")["optimizer"]["epochs"]
    left = "its final evaluation is missing" if epoch == epochs else f"{epochs - epoch:g} epochs are left"
    unfinished = "" if run.result.exists() else f": the run is incomplete, {left}"
    return f", after epoch {epoch:g} of {epochs}{unfinished}"


def check_classes(checkpoint: Path, class_names: Sequence[str | None], given: tuple[str, object] | None = None) -> None:
    """Raise InvalidSetting if the images have other classes than a run or its plain student was trained on.

    Args:
        given: the setting, with its value, that names the checkpoint; None for a program's argument.
    """
    learned = learned_classes(checkpoint)
    if learned and (difference := class_difference(learned, class_names)):
        field, value = given or ("", checkpoint)
        reason = f"was trained on other classes than the evaluation images have; {difference}"
        raise InvalidSetting(field, value, f"{reason}; name a data set with the same class folders")


def class_subset(checkpoint: Path, class_names: Sequence[str | None]) -> list[int] | None:
    """Return the indices of a run's classes that the images have, if they have only some, such as ImageNet-A's 200."""
    number = {name: place for place, name in enumerate(learned_classes(checkpoint))}
    some = len(class_names) < len(number) and None not in number and set(class_names) <= set(number)
    return [number[name] for name in class_names] if some and class_names else None


def learned_classes(checkpoint: Path) -> list[str | None]:
    """Return the class names of a run, from its folder, a checkpoint or its plain student; empty if unknown."""
    run = RunFolder(checkpoint if checkpoint.is_dir() else checkpoint.parent.parent)
    if checkpoint in (run.path, run.last, run.best) and (run.path / "data.json").exists():
        return run.data()["classes"]
    return embedded_record(checkpoint).get("classes", [])


def run_path(config: Config) -> Path:
    """Return runs/<data>/<teachers>_<student>/<method>/<seed>, .../<student>/... without a teacher, or `out`."""
    if config.run.out:
        return Path(config.run.out)
    names = (*config.networks.teacher_names, config.networks.student)
    pair = "_".join(_as_folder(name) for name in names if name)
    data, run = data_label(dataclasses.asdict(config.data)), config.run
    return Path(run.runs, data, pair, run.name or _as_folder(config.method.name), str(run.seed))


def saved_config(record: Mapping[str, Any], family: Family, path: Path) -> Config:
    """Return the configuration in a run's record; fields that are newer than the run have their defaults.

    Raises:
        UserError: the record is damaged, belongs to another family, or has options that this version does not know.
    """
    if "family" not in record:
        raise UserError(f"{path.absolute()}: its record names no family; use the version that made it")
    if record["family"] != family.name:
        raise UserError(f"{path.absolute()}: a run of {record['family']}, not of {family.name}; use python -m gendd")
    try:
        return config_of({name: values for name, values in record.items() if name != "classes"}, family)
    except InvalidSetting as error:
        raise UserError(f"{path.absolute()}: {error}; use the version that made the run") from error


def embedded_record(path: Path) -> dict[str, Any]:
    """Return the record of the run that wrote a checkpoint or a plain student; empty for other files."""
    try:
        if is_safetensors(path):
            return _object(origin(path)[RECORD])
        if what_it_is(path):
            return {}
        # Memory-mapped, so that tensors are not read.
        return _object(json.loads(torch.load(path, map_location="meta", mmap=True, weights_only=True)[RECORD]))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError):
        return {}


def origin(path: Path) -> dict[str, Any]:
    """Return the origin of the weights in a published file or a plain student; empty for other files."""
    try:
        return _object(json.loads(metadata(path)["config"])["gendd"])
    except (KeyError, TypeError, ValueError):
        return {}


def _object(content: Any) -> dict[str, Any]:
    """Return the content of a JSON object; {} for another JSON value."""
    return content if isinstance(content, dict) else {}


def run_record(path: Path) -> dict[str, Any]:
    """Return the family, configuration and class names of a run, from its folder or one of its files.

    Raises:
        UserError: the run folder is damaged, or the file does not hold a configuration.
    """
    if path.is_dir():
        run = RunFolder(path)
        return {**run.read("config.json"), "classes": run.data()["classes"]}
    if not (record := embedded_record(path)):
        raise UserError(f"{path}: the file does not hold a configuration; name the run folder")
    return record


def by_name(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return all values of a configuration's content by their fields' names, and the name of the method as "method"."""
    parts = [part for part in content.values() if isinstance(part, Mapping)]
    return {name: value for part in parts for name, value in part.items()} | {
        "name": content["run"]["name"],
        "method": content["method"]["name"],
    }


def _compared(config: Config) -> dict[str, Any]:
    """Return `by_name` of a configuration, with the settings of all teachers by "teacher" if there are several."""
    values, usual = by_name(config.content()), dataclasses.asdict(TeacherNetwork())
    words = [values["teacher"]]
    for further in values.pop("more_teachers"):
        differing = {name: value for name, value in further.items() if name != "teacher" and value != usual[name]}
        given = (f"`{name}` {' '.join(map(str, _listed(value)))}" for name, value in differing.items())
        words.append(" ".join([further["teacher"], *given]))
    return values | {"teacher": "; ".join(words) if len(words) > 1 else values["teacher"]}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def data_label(settings: Mapping[str, Any]) -> str:
    """Return the name of a run's training data, such as "cifar100-lt0.01".

    Args:
        settings: fields of `Data`. Fields of other families may be missing.
    """
    name = data_name(settings["dataset"])
    if settings.get("unlabeled_dir"):
        name += f"-from-{Path(settings['unlabeled_dir']).name}"
    for setting, letters in (("imbalance", "lt"), ("label_fraction", "labels")):
        if settings.get(setting, 1) != 1:
            name += f"-{letters}{settings[setting]:g}"
    return name


def stage1_run(config: Config) -> RunFolder | None:
    """Return the run folder of stage 1, or None without stage 1."""
    first = config.method.pretraining(config)
    return RunFolder(run_path(first)) if first else None


def earlier_epochs(config: Config) -> int:
    """Return the epochs of the runs that the student starts from: stage 1, or the run of its weights."""
    weights = config.networks.student_weights
    before = stage1_run(config) or (run_with(Path(weights)) if weights else None)
    if not before or not before.result.exists():
        return 0
    result = before.read("result.json")
    return result["epochs"] + result["earlier_epochs"]


def run_with(weights: Path) -> RunFolder | None:
    """Return the complete run of weights: of its folder, one of its checkpoints, or its plain student."""
    for run in map(RunFolder, (weights, *weights.parents[:2])):
        own = weights in (run.path, run.student, run.student_file)
        if run.result.exists() and (own or weights.parent in (run.last.parent, run.student)):
            return run
    return None


def data_name(dataset: str) -> str:
    """Return the last part of a data set's path; for a pattern of shard files, the name of their folder."""
    path = Path(dataset)
    is_shard = any(ending in path.name.lower() for ending in (".tar", ".tgz"))
    return _as_folder(path.parent.name or path.stem if is_shard else path.name)


def _as_folder(name: str) -> str:
    return Path(name).name.replace(":", ".")
