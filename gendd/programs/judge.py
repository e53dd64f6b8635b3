"""The programs that judge a trained student by its features, whatever it was trained for: knn, probe, zero-shot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors.torch
import torch
import tyro
from torch import Tensor

from gendd.checkpoint import is_safetensors, write_whole
from gendd.command_line import parse
from gendd.distributed import World, first_alone
from gendd.errors import Refusal, UserError, naming
from gendd.evaluation import CalibrationCounter
from gendd.judging import (
    NEIGHBORS,
    TEACHER_SHARE,
    TEMPERATURE,
    fit_by_lbfgs,
    fit_by_sgd,
    knn_logits,
    zero_shot_logits,
)
from gendd.programs.judged_features import Judged, judged_features
from gendd.programs.open_run import OpenedRun, open_run
from gendd.programs.tree import Tree
from gendd.randomness import BatchPlan
from gendd.ranges import Count, Positive, check_ranges
from gendd.runs import environment

Which = Literal["backbone", "generated"]


@dataclass(frozen=True)
class JudgeConfig:
    run: tyro.conf.Positional[str]
    """Run folder."""
    dataset: str | None = None
    """Labeled data set to judge on; the run's own if not given."""
    data_root: str | None = None
    """Folder of data sets; the run's own if not given."""
    features: Which = "backbone"
    """Which features are judged: the plain student's, or those that its head generates."""
    json: str | None = None
    """File for the figures; <program>.json in the run folder if not given."""


@dataclass(frozen=True)
class KnnConfig(JudgeConfig):
    """Classify the test images by the nearest training images: no training, no classifier (DINO, 2021)."""

    k: Count = NEIGHBORS
    """Nearest training images that vote."""
    temperature: Positive = TEMPERATURE
    """Each counts exp(cosine / temperature)."""


@dataclass(frozen=True)
class ProbeConfig(JudgeConfig):
    """Fit a linear classifier to the frozen features of the training images, and test it."""

    protocol: Literal["lbfgs", "sgd"] = "lbfgs"
    """lbfgs: all images at a time, penalty chosen on a tenth of the training images; or, for large sets, sgd: rate 30,
    no weight decay, cosine, 100 epochs, targets half label and half teacher's probability where it classifies."""


@dataclass(frozen=True)
class ZeroShotConfig(JudgeConfig):
    """Classify the test images by a vector of each class: text embeddings, or a teacher's classifier."""

    features: Which = "generated"
    """Which features are judged: those that the head generates, or the plain student's."""
    class_vectors: str | None = None
    """File of a matrix, a row for each class in order: .npy, or safetensors with "weight" (and "bias")."""
    likeness: Literal["cosine", "dot"] = "cosine"
    """What a class is chosen by: cosine, or dot product (and bias, as a linear classifier)."""


def knn(tree: Tree, arguments: list[str]) -> None:
    """The knn program of a tree. Raises UserError: no run, no labels, or too few images."""
    config = parse(KnnConfig, f"{tree.module} knn", arguments)

    def judge(run: OpenedRun, world: World) -> dict[str, object]:
        train, test = (_features(tree, run, config, world, of_training) for of_training in (True, False))
        with naming("--k"):
            known = train.features, train.labels
            logits = knn_logits(*known, test.features, len(test.class_names), config.k, config.temperature)
        settings = {"k": config.k, "temperature": config.temperature, "training images": len(train.labels)}
        return {**settings, **_scores(logits, test.labels)}

    _run(tree, config, "knn", judge)


def probe(tree: Tree, arguments: list[str]) -> None:
    """The probe program of a tree. Raises UserError: no run, or no labels."""
    config = parse(ProbeConfig, f"{tree.module} probe", arguments)

    def judge(run: OpenedRun, world: World) -> dict[str, object]:
        train, test = (_features(tree, run, config, world, of_training) for of_training in (True, False))
        classes = len(test.class_names)
        found: dict[str, object] = {"protocol": config.protocol, "training images": len(train.labels)}
        with torch.enable_grad():
            if config.protocol == "lbfgs":
                fitted, found["penalty"] = fit_by_lbfgs(train.features, train.labels, classes)
            else:
                targets = _sgd_targets(tree, run, config, world, train.labels, classes)
                fitted = fit_by_sgd(train.features, targets, classes)
        return {**found, **_scores(fitted(test.features), test.labels)}

    _run(tree, config, "probe", judge)


def zero_shot(tree: Tree, arguments: list[str]) -> None:
    """The zero-shot program of a tree. Raises UserError: no run, no labels, or vectors that do not fit."""
    config = parse(ZeroShotConfig, f"{tree.module} zero-shot", arguments)
    if not config.class_vectors:
        raise UserError("--class-vectors is missing: name a file with a vector for each class (.npy or safetensors)")

    def judge(run: OpenedRun, world: World) -> dict[str, object]:
        vectors, bias = _class_vectors(config.class_vectors, world)
        test = _features(tree, run, config, world)
        if len(vectors) != len(test.class_names):
            raise UserError(
                f"--class-vectors {config.class_vectors}: {len(vectors)} vectors, the data set has "
                f"{len(test.class_names)} classes"
            )
        with naming(f"--class-vectors {config.class_vectors}:"):
            logits = zero_shot_logits(test.features, vectors, bias, config.likeness == "cosine")
        return {"class vectors": config.class_vectors, "likeness": config.likeness, **_scores(logits, test.labels)}

    _run(tree, config, "zero-shot", judge)


def _run(tree: Tree, config: JudgeConfig, program: str, judge) -> None:
    """Open the run, judge it, print and write what was found."""
    check_ranges(config)
    world = first_alone()
    if not world:
        return
    changed = {name: getattr(config, name) for name in ("dataset", "data_root") if getattr(config, name)}
    if config.dataset:
        changed["image_folder"] = None
    run = open_run(tree, config.run, world.device, **changed)
    if config.features == "generated" and run.built.task.head is None:
        raise UserError(f"--features generated: {run.settings.method.name} trains no head; judge the backbone")
    with torch.no_grad():
        found = judge(run, world)
    content = {"run": config.run, "dataset": run.settings.dataset, "features": config.features, **found}
    told = ", ".join(f"{name} {value}" for name, value in content.items() if name not in ("run", "top1", "top5", "ece"))
    print(f"{program}: {told}")
    print(f"top-1 {found['top1']:.2f} %, top-5 {found['top5']:.2f} %, ECE {found['ece']:.2f} %")
    file = Path(config.json or Path(config.run, f"{program}.json"))
    text = json.dumps(content | environment(world), indent=2) + "\n"
    write_whole(file, lambda stream: stream.write(text.encode()))
    print(f"figures in {file}")


def _features(tree: Tree, run: OpenedRun, config: JudgeConfig, world: World, of_training: bool = False) -> Judged:
    return judged_features(tree, config.run, run, config.features, world, of_training)


def _sgd_targets(tree: Tree, run: OpenedRun, config: JudgeConfig, world: World, labels: Tensor, classes: int) -> Tensor:
    """Labels (N,), or, with a teacher that classifies, half label and half its probability (N, C)."""
    teacher = getattr(run.built.task, "teacher", None)
    if config.dataset or not teacher or not teacher.classifier:
        # Of other data it knows no classes.
        return labels
    opened = open_run(tree, config.run, world.device, taught=True)
    data = tree.open_evaluation(run.settings, BatchPlan(0, 1), world, run.built.student.network, of_training=True)
    soft = [opened.built.task.teacher.logits_of(images).float().softmax(-1) for _, images, _ in data.batches()]
    one_hot = torch.nn.functional.one_hot(labels, classes).float()
    return (1 - TEACHER_SHARE) * one_hot + TEACHER_SHARE * torch.cat(soft)


def _class_vectors(file: str, world: World) -> tuple[Tensor, Tensor | None]:
    path = Path(file)
    try:
        if not path.is_file():
            raise Refusal("no such file; check the path")
        if is_safetensors(path):
            tensors = safetensors.torch.load_file(path)
        else:
            tensors = {"weight": torch.from_numpy(np.load(path, allow_pickle=False))}
        vectors, bias = tensors["weight"].float(), tensors.get("bias")
    except (Refusal, ValueError, KeyError, OSError, EOFError) as error:
        raise UserError(
            f'--class-vectors {file}: {error}; it takes .npy, or safetensors with "weight" (C, D)'
        ) from error
    return vectors.to(world.device), None if bias is None else bias.float().to(world.device)


def _scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    counter = CalibrationCounter(logits.device)
    counter.update(logits, labels)
    ranked = logits.topk(min(5, logits.shape[1]), dim=-1).indices == labels[:, None]
    top1, top5 = (100 * hits.double().mean().item() for hits in (ranked[:, 0], ranked.any(-1)))
    ece = counter.compute(World(0, 1, 0, logits.device))
    return {"images": len(labels), "top1": round(top1, 4), "top5": round(top5, 4), "ece": ece}
