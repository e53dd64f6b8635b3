"""Programs that evaluate the features of a trained student of any method: knn, probe, zero-shot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gendd.core.distributed import World, first_alone
from gendd.core.errors import InvalidSetting, InvalidValue, MissingFile, UserError, naming
from gendd.core.ranges import Count, Positive, check_values
from gendd.core.seeding import BatchPlan
from gendd.data.batch import refuse_other_classes
from gendd.evaluation.accuracy import CalibrationCounter, has_top5, one_label
from gendd.evaluation.probes import (
    NEIGHBORS,
    TEACHER_SHARE,
    TEMPERATURE,
    fit_by_lbfgs,
    fit_by_sgd,
    knn_shares,
    zero_shot_logits,
)
from gendd.evaluation.scores import PERCENT
from gendd.family import Family
from gendd.networks.checkpoint import read_any
from gendd.programs.command_line import RunArgument, parse
from gendd.programs.figures import figures_file, other_data, write_figures
from gendd.programs.probed_features import ProbedFeatures, probed_features
from gendd.programs.teacher_flags import refuse_several
from gendd.runs.environment import environment
from gendd.runs.experiment import Experiment, load
from gendd.runs.folder import RunFolder, progress

Which = Literal["backbone", "generated"]


@dataclass(frozen=True)
class FeatureProgram:
    run: RunArgument
    """Run folder."""
    dataset: str | None = None
    """Labeled data set to evaluate on. The run's data set if not given."""
    data_root: str | None = None
    """Folder of data sets. The run's value if not given."""
    features: Which = "backbone"
    """Features to evaluate: backbone, from the plain student, or generated, from its head."""
    teacher: str | None = None
    """Teacher whose features the head generates, for a run with several: its name. The first one if not given."""
    json: str | None = None
    """File for the figures. <program>.json in the run folder if not given; other data sets and features than the
    default are added to its name."""


@dataclass(frozen=True)
class KnnConfig(FeatureProgram):
    """Classify the test images by the nearest training images: no training, no classifier (DINO, 2021)."""

    k: Count = NEIGHBORS
    """Number of nearest training images that vote."""
    temperature: Positive = TEMPERATURE
    """Temperature of the votes: a neighbor counts exp(cosine / temperature)."""


@dataclass(frozen=True)
class ProbeConfig(FeatureProgram):
    """Fit a linear classifier to the frozen features of the training images, and test it."""

    protocol: Literal["lbfgs", "sgd"] = "lbfgs"
    """lbfgs fits all images at once, with a penalty selected on a tenth of the training images. sgd, for large sets,
    uses learning rate 30, batches of 512, cosine schedule, no weight decay and 100 epochs; its targets are half label
    and half teacher's probability if the teacher classifies."""


@dataclass(frozen=True)
class ZeroShotConfig(FeatureProgram):
    """Classify the test images by one vector per class: text embeddings, or a teacher's classifier."""

    features: Which = "generated"
    """Features to evaluate: generated, from the student's head, or backbone, from the plain student."""
    class_vectors: str | None = None
    """File with a matrix, one row per class in order: .npy, a tensor in .pt, or "weight" (and "bias") in .pt or
    safetensors."""
    likeness: Literal["cosine", "dot"] = "cosine"
    """Similarity of a feature and a class vector: cosine, or dot product (plus bias, like a linear classifier)."""


@dataclass(frozen=True)
class Outcome:
    """Result of a program.

    Args:
        settings: settings that the figures depend on.
        test: the N test images.
        scores: (N, C); a higher score means a more likely class.
        probabilities: (N, C), or None if the scores do not give probabilities.
    """

    settings: Mapping[str, object]
    test: ProbedFeatures
    scores: Tensor
    probabilities: Tensor | None

    def figures(self) -> dict[str, float]:
        """Return top-1, top-5 (with more than five classes) and calibration error (of probabilities) in percent."""
        labels, device = one_label(self.scores, self.test.labels), self.scores.device
        hits = self.scores.topk(min(5, self.scores.shape[1]), dim=-1).indices == labels[:, None]
        if self.probabilities is not None:
            # The order of classes without votes is arbitrary.
            hits &= self.probabilities.gather(1, labels[:, None]) > 0
        found = {"images": len(labels), "top1": round(100 * hits[:, 0].double().mean().item(), 4)}
        if has_top5(self.scores):
            found["top5"] = round(100 * hits.any(-1).double().mean().item(), 4)
        if self.probabilities is None:
            return found
        counter = CalibrationCounter(device)
        counter.update(self.probabilities, labels)
        return {**found, "ece": counter.compute(World(0, 1, 0, device))}


def knn(family: Family, arguments: list[str]) -> None:
    """Run the knn program of a family.

    Raises:
        UserError: the path is not a run, labels are missing, or the images are too few.
    """
    config = _parsed(KnnConfig, family, "knn", arguments)

    def measure(run: Experiment, world: World) -> Outcome:
        train, test = _train_and_test(family, run, config, world)
        with naming("k"):
            known = train.features, train.labels
            shares = knn_shares(*known, test.features, len(test.class_names), config.k, config.temperature)
        settings = {"k": config.k, "temperature": config.temperature, "training images": len(train.labels)}
        return Outcome(settings, test, shares, shares)

    _run(family, config, "knn", measure)


def probe(family: Family, arguments: list[str]) -> None:
    """Run the probe program of a family.

    Raises:
        UserError: the path is not a run, or labels are missing.
    """
    config = _parsed(ProbeConfig, family, "probe", arguments)

    def measure(run: Experiment, world: World) -> Outcome:
        train, test = _train_and_test(family, run, config, world)
        classes = len(test.class_names)
        found: dict[str, object] = {"protocol": config.protocol, "training images": len(train.labels)}
        with torch.enable_grad(), naming("dataset", train.dataset):
            if config.protocol == "lbfgs":
                fitted, found["penalty"] = fit_by_lbfgs(train.features, train.labels, classes)
            else:
                targets = _sgd_targets(family, run, config, world, train.labels, classes)
                fitted = fit_by_sgd(train.features, targets, classes)
        logits = fitted(test.features)
        return Outcome(found, test, logits, logits.double().softmax(-1))

    _run(family, config, "probe", measure)


def zero_shot(family: Family, arguments: list[str]) -> None:
    """Run the zero-shot program of a family.

    Raises:
        UserError: the path is not a run, labels are missing, or the class vectors do not fit.
    """
    config = _parsed(ZeroShotConfig, family, "zero-shot", arguments)
    if not config.class_vectors:
        raise UserError("--class-vectors is missing: name a file with one vector per class (.npy, .pt, safetensors)")

    def measure(run: Experiment, world: World) -> Outcome:
        vectors, bias = _class_vectors(config.class_vectors, world)
        test = _features(family, run, config, world)
        if len(vectors) != len(test.class_names):
            raise UserError(
                f"--class-vectors {config.class_vectors}: the file has {len(vectors)} vectors, the data set "
                f"{len(test.class_names)} classes; give one vector per class"
            )
        with naming("class_vectors", config.class_vectors):
            logits = zero_shot_logits(test.features, vectors, bias, config.likeness == "cosine")
        # Cosines are not logits: their softmax is not a probability.
        probabilities = logits.double().softmax(-1) if config.likeness == "dot" else None
        settings = {"class vectors": config.class_vectors, "likeness": config.likeness}
        return Outcome(settings, test, logits, probabilities)

    _run(family, config, "zero-shot", measure)


def _parsed(kind: type[FeatureProgram], family: Family, program: str, arguments: list[str]) -> Any:
    refuse_several(arguments, "selects one head; give it once, and run the program again for another head")
    return parse(kind, f"{family.command} {program}", arguments)


def _run(family: Family, config: FeatureProgram, program: str, measure: Callable[[Experiment, World], Outcome]) -> None:
    """Load the run, evaluate its features, print and write the figures."""
    check_values(config)
    world = first_alone()
    if not world:
        return
    run_folder = Path(config.run)
    if run_folder.is_file():
        raise UserError(
            f"RUN {config.run}: {program} needs a run folder, which stores the features; for this file use evaluate"
        )
    own = RunFolder(run_folder).config(family)
    figures_file(config.json, run_folder, program)
    changed: dict[str, Any] = {"data_root": config.data_root} if config.data_root else {}
    run = load(config.run, family, world.device, on_dataset=config.dataset, **changed)
    if config.features == "generated" and run.task.head is None:
        raise UserError(f"run {config.run}: {run.config.method.name} does not train a head; give --features backbone")
    if config.teacher and config.features == "backbone":
        raise InvalidSetting("teacher", config.teacher, "selects a head; give `features` generated, or leave it out")
    names, number = run.config.networks.teacher_names, run.number_of(config.teacher)
    print(f"run {config.run}{progress(run_folder, run.epoch)}", flush=True)
    with torch.no_grad():
        outcome = measure(run, world)
    test, figures = outcome.test, outcome.figures()
    content: dict[str, object] = {
        "run": config.run,
        "dataset": test.dataset,
        "split": test.split,
        "features": config.features,
    }
    if config.features == "generated":
        content["teacher"] = names[number]
    content |= {**outcome.settings, **figures}
    words = ", ".join(f"{name} {value}" for name, value in content.items() if name not in ("run", *PERCENT))
    print(f"{program}: {words}")
    print(", ".join(f"{PERCENT[name]} {figures[name]:.2f} %" for name in PERCENT if name in figures))
    differing = other_data(own, run.config, test.dataset, test.split)
    if config.features != type(config).features:
        differing.append(config.features)
    if number:
        differing.append(run.config.networks.more_labels[number - 1])
    file = figures_file(config.json, run_folder, program, *differing)
    write_figures(file, content | {"epoch": run.epoch} | environment(world))


def _train_and_test(
    family: Family, run: Experiment, config: FeatureProgram, world: World
) -> tuple[ProbedFeatures, ProbedFeatures]:
    train, test = (_features(family, run, config, world, of_training) for of_training in (True, False))
    refuse_other_classes(train.dataset, train.class_names, test.class_names)
    return train, test


def _features(
    family: Family, run: Experiment, config: FeatureProgram, world: World, of_training: bool = False
) -> ProbedFeatures:
    number = run.number_of(config.teacher)
    return probed_features(family, config.run, run, config.features, world, of_training, number)


def _sgd_targets(
    family: Family, run: Experiment, config: FeatureProgram, world: World, labels: Tensor, classes: int
) -> Tensor:
    """Return labels (N,) or, with a teacher that classifies, the mean of one-hot label and its probability (N, C)."""
    teacher = getattr(run.task, "teacher", None)
    own = RunFolder(Path(config.run)).config(family).data.dataset
    if config.dataset not in (None, own) or not teacher or not teacher.classifier:
        # The teacher does not know the classes of another data set.
        return labels
    try:
        opened = load(config.run, family, world.device, with_teacher=True)
    except MissingFile as absent:
        reason = f"its targets need the teacher of the run, of which {absent}; or choose lbfgs"
        raise InvalidSetting("protocol", "sgd", reason) from absent
    data = family.access.open_evaluation(run.config, BatchPlan(0, 1), world, run.student.network, of_training=True)
    soft = [opened.task.teacher.logits_of(images).float().softmax(-1) for _, images, _ in data.batches()]
    one_hot = torch.nn.functional.one_hot(labels, classes).float()
    return (1 - TEACHER_SHARE) * one_hot + TEACHER_SHARE * torch.cat(soft)


def _class_vectors(file: str, world: World) -> tuple[Tensor, Tensor | None]:
    path = Path(file)
    with naming("class_vectors"):
        content = _matrix(path) if path.suffix == ".npy" else read_any(path)
        tensors = content if isinstance(content, dict) else {"weight": content}
        vectors, bias = tensors.get("weight"), tensors.get("bias")
        if not isinstance(vectors, Tensor) or not (bias is None or isinstance(bias, Tensor)):
            raise InvalidValue(
                file, 'does not hold class vectors; give a matrix (C, D), or tensors "weight" and "bias"'
            )
    return vectors.float().to(world.device), None if bias is None else bias.float().to(world.device)


def _matrix(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise InvalidValue(path, f"cannot be read ({error}); save a matrix (C, D) of numbers by numpy.save") from error
