"""The publish program: a student in a folder for the Hugging Face Hub, with its model card."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from gendd.core.errors import InvalidSetting, UserError, naming
from gendd.core.files import checksum, rewrite, rewrite_text, save_tensors
from gendd.family import Family
from gendd.methods.published import method_of
from gendd.networks.checkpoint import load_weights, read_weights, weights_file
from gendd.networks.create import timm_can_build
from gendd.networks.timm_names import LOCAL, PLAIN
from gendd.programs.command_line import RunArgument, parse
from gendd.programs.find_family import find_family
from gendd.programs.push import check_repository, push
from gendd.programs.student_folder import described
from gendd.reporting.card import card_of
from gendd.reporting.curves import curves
from gendd.reporting.finished import FinishedRun
from gendd.reporting.groups import grouped
from gendd.runs.experiment import Experiment, build, load
from gendd.runs.folder import NOT_COMPARED, RECORD, RunFolder, by_name, embedded_record, origin
from gendd.runs.published import CARD, CONFIG, CURVES, WHOLE, portable, teacher_origins, teacher_records

# Relative to the greatest output: the rounding of another build of the same network.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class PublishConfig:
    """Write a student, with its model card, to a folder that timm and gendd load; and send it to the Hugging Face Hub.

    Published GenDD checkpoints need --student and --teacher.
    """

    run: RunArgument = ""
    """Run folder, or a checkpoint file."""
    folder: str = ""
    """Folder to write: a new one, an empty one, or one with an earlier publication of the same run."""
    push: str | None = None
    """Repository of the Hugging Face Hub, owner/name, that receives the folder. It is created if it does not exist."""
    license: str | None = None
    """License of the weights by the hub's identifier, such as mit or apache-2.0. The card states unknown if not
    given."""
    student: str | None = None
    """Student's network, for a checkpoint file without a configuration."""
    teacher: str | None = None
    """Teacher's network, for a checkpoint file without a configuration."""
    dataset: str | None = None
    """Data set, for a checkpoint file without a configuration. The family's default if not given."""


def publish(family: Family, arguments: list[str]) -> None:
    """Write the student that the first argument names to a folder, and push it.

    Raises:
        UserError: the run cannot be loaded, the folder holds something else, or the hub refuses.
    """
    options: PublishConfig = parse(PublishConfig, f"{family.command} publish", arguments)
    _check(options)
    path, folder = Path(options.run), Path(options.folder)
    experiment = _opened(family, options, arguments)
    content = _content(experiment, path)
    _check_folder(folder, content)
    _write(folder, experiment, content, options)
    _compare(folder, experiment)
    print(f"{folder.absolute()} holds the student and its card")
    if not options.license:
        print("the card states an unknown license; name yours with --license")
    if options.push:
        print(f"pushed to {push(folder, options.push)}")


def _check(options: PublishConfig) -> None:
    if not options.run:
        raise UserError("RUN is missing: name a run folder or a checkpoint file first, then the flags")
    if not options.folder:
        raise InvalidSetting("folder", None, "name the folder to write")
    if options.license and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", options.license):
        raise InvalidSetting(
            "license", options.license, "is not an identifier of the hub; name one such as mit, apache-2.0 or other"
        )
    if options.push:
        check_repository(options.push)


def _opened(family: Family, options: PublishConfig, arguments: list[str]) -> Experiment:
    """Return the run, or the student in a published GenDD checkpoint, which does not hold its configuration."""
    path = Path(options.run)
    named = [name for name in ("student", "teacher", "dataset") if getattr(options, name)]
    if path.is_dir() or embedded_record(path):
        if named:
            raise InvalidSetting(named[0], getattr(options, named[0]), "the run has its own; leave it out")
        return load(path)
    with naming("RUN"):
        tensors = read_weights(path)
    if "head.net.input_proj.weight" not in tensors or "classifier.weight" not in tensors:
        raise InvalidSetting("RUN", path, "neither a run nor a published GenDD checkpoint; name a run folder")
    family = find_family(family.module, ["publish", *arguments], own_flags=True)
    for name in ("student", "teacher"):
        if not getattr(options, name):
            raise InvalidSetting(name, None, f"{path} does not name its networks; give it")
    config = family.config(method_of(tensors), **{name: getattr(options, name) for name in named})
    classes = len(tensors["classifier.weight"])
    experiment = build(family, config, classes, torch.device("cpu"), tensors)
    with naming("RUN"):
        load_weights(experiment.model, tensors, str(path))
    experiment.path, experiment.class_names = path, (None,) * classes
    return experiment


def _content(experiment: Experiment, path: Path) -> dict[str, Any]:
    """Return the content of config.json: timm's keys, and under "gendd" the origin with the configuration."""
    config, network = experiment.config, experiment.backbone
    student = config.networks.student
    if student.startswith(LOCAL):
        student = f"timm/{network.pretrained_cfg['architecture']}"
    record = {"family": experiment.family.name, **portable(config.changed(student=student).content())}
    recorded = bool(embedded_record(weights_file(path)))
    content: dict[str, Any] = {
        "network": student,
        "method": config.method.name,
        "dataset": record["data"]["dataset"],
        "epoch": experiment.epoch,
        "epochs": config.optimizer.epochs if recorded else None,
        RECORD: {**record, "classes": list(experiment.class_names)},
        "teacher": None,
        # A file without a configuration is recognized by its checksum.
        "sha256": None if recorded else checksum(path),
    }
    if experiment.teacher:
        networks = record["networks"]
        names = [networks["teacher"], *(one["teacher"] for one in networks["more_teachers"])]
        origins = teacher_origins(names, portable(teacher_records(path)))
        of_first, *of_others = [teacher.sizes for teacher in (experiment.teacher, *experiment.more_teachers)]
        content["teacher"] = origins["teacher"] | of_first
        if of_others:
            content["more_teachers"] = [a | b for a, b in zip(origins["more_teachers"], of_others, strict=True)]
    return described(config, network, experiment.class_names, content)


def _check_folder(folder: Path, content: dict[str, Any]) -> None:
    """Raise InvalidSetting if the folder holds anything but an earlier publication of the same run."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidSetting("folder", folder, f"{error.strerror}; name another folder") from error
    if names and _identity(origin(folder / WHOLE)) != _identity(content["gendd"]):
        what = "another student" if WHOLE in names else f"other files, such as {sorted(names)[0]}"
        raise InvalidSetting("folder", folder, f"holds {what}; name a new folder")


def _identity(source: dict[str, Any]) -> list[Any]:
    """Return what is the same for all publications of one run."""
    if not source:
        return []
    settings = by_name(source[RECORD])
    # The first part of a path depends on the folder that the run is published from.
    names = {name: Path(value).name if isinstance(value, str) else value for name, value in settings.items()}
    return [{name: names[name] for name in names.keys() - NOT_COMPARED}, source[RECORD]["classes"], source["sha256"]]


def _write(folder: Path, experiment: Experiment, content: dict[str, Any], options: PublishConfig) -> None:
    run = FinishedRun(RunFolder(Path(options.run)))
    finished = run if run.folder.result.is_file() else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # First: it shows which run a folder belongs to, should the rest fail.
        save_tensors(folder / WHOLE, _tensors(experiment.model), {"config": json.dumps(content)})
        save_tensors(folder / PLAIN, _tensors(experiment.backbone), {"format": "pt"})
        RunFolder(folder).write(CONFIG, content)
        if finished:
            rewrite(folder / CURVES, curves(grouped([finished])).savefig)
        rewrite_text(folder / CARD, card_of(experiment, content, finished, options.license, options.push))
    except OSError as error:
        raise InvalidSetting("folder", folder, f"cannot be written ({error.strerror}); name another") from error


def _tensors(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous() for name, value in module.state_dict().items()}


@torch.inference_mode()
def _compare(folder: Path, experiment: Experiment) -> None:
    """Load the folder as its users will, and compare the outputs for random images.

    Raises:
        UserError: an output differs.
    """
    of = experiment.preprocessing
    pixels = torch.rand(2, 3, of.image_size, of.image_size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (of.mean, of.std))
    images = (pixels - mean) / std
    again = load(folder)
    pairs = {name: (experiment.predict(images, name), again.predict(images, name)) for name in experiment.outputs}
    if timm_can_build(experiment.config.networks.student, experiment.backbone):
        plain = timm.create_model(f"{LOCAL}{folder}", pretrained=True).eval()
        pairs["timm"] = experiment.backbone.eval()(images), plain(images)
    for name, (expected, found) in pairs.items():
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            raise UserError(f"{folder}: {name} differs from the run after loading; do not publish it, report a bug")
