"""Features of a trained student that are judged, computed once: kept in the run folder, whatever program asks next."""

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from gendd.core.distributed import World, autocast, resolve_precision
from gendd.core.errors import UserError
from gendd.core.files import checksum, rewrite
from gendd.core.seeding import BatchPlan, generator
from gendd.data.batch import EvaluationData, described
from gendd.family import Family
from gendd.networks.checkpoint import metadata, weights_file
from gendd.networks.create import pooled_feature
from gendd.runs.experiment import Experiment
from gendd.runs.folder import data_name

# Stored features are those of today's images if those of the first batch are no further away than kernels round.
MOST_APART = 0.01


@dataclass(frozen=True)
class ProbedFeatures:
    """Features (N, D) of N images, their labels (N,), or several of each (N, M), and the names of the C classes.

    Args:
        dataset, split: that the images are of.
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str | None, ...]
    dataset: str
    split: str


def probed_features(
    family: Family, path: str, run: Experiment, kind: str, world: World, of_training: bool = False
) -> ProbedFeatures:
    """Features of the images to test on, or to train on, as the file in the run folder or anew.

    Args:
        path: the run folder.
        kind: "backbone", those of the plain student, or "generated", those of its head.

    Raises:
        UserError: the images have no labels, or their features are not finite.
    """
    settings = run.config
    data = family.open_evaluation(settings, BatchPlan(settings.run.seed, 1), world, run.student.network, of_training)
    if not data.class_names:
        raise UserError(f"run {path}: {described(data)} has no labels; name a labeled data set: --dataset")
    batches, title = _batches(run, data, kind, world), "training images" if of_training else "test images"
    first = next(batches)
    made_from = {
        "weights": checksum(weights_file(path)),
        "dataset": str(Path(data.dataset).resolve()),
        "split": data.split,
        "images": data.size,
        "precision": resolve_precision(settings.run.precision, world.device),
        "sampling": {**settings.method.sampling(), "seed": settings.run.seed} if kind == "generated" else {},
    }
    known = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    file = Path(path, "features", f"{data_name(data.dataset)}-{data.split}-{kind}.safetensors")
    found = _stored(file, known, first, world)
    if not found:
        parts = tqdm(itertools.chain([first], batches), title, disable=None, leave=False)
        features, labels = map(torch.cat, zip(*parts, strict=True))
        if not features.isfinite().all():
            raise UserError(f"run {path}: its features of {described(data)} are not finite; judge another run")
        found = {"features": features, "labels": labels}
        _store(file, {name: values.cpu() for name, values in found.items()}, known)
    return ProbedFeatures(found["features"], found["labels"], data.class_names, data.dataset, data.split)


def _batches(run: Experiment, data: EvaluationData, kind: str, world: World):
    """Features (B, D) and labels (B,) of each batch."""
    network, settings = run.student.network, run.config
    precision, sampling = resolve_precision(settings.run.precision, world.device), settings.method.sampling()
    for number, images, labels in data.batches():
        with autocast(precision, world.device):
            if kind == "generated":
                noise = generator(world.device, settings.run.seed, "evaluation", number)
                feature = run.model.sample(images, noise, **sampling)
            else:
                feature = pooled_feature(network, images)
        yield feature.float(), labels


def _stored(file: Path, known: str, first: tuple[Tensor, Tensor], world: World) -> dict[str, Tensor] | None:
    """What the file holds, if it was made from the same, and the images are still those."""
    try:
        if not file.exists() or metadata(file).get("made_from") != known:
            return None
        found = safetensors.torch.load_file(file, device=str(world.device))
    except (SafetensorError, OSError):
        return None
    features, labels = first
    theirs = found["features"][: len(features)]
    apart = (theirs - features).norm() / features.norm().clamp(min=torch.finfo(features.dtype).tiny)
    same = apart <= MOST_APART and torch.equal(found["labels"][: len(labels)], labels)
    return found if same else None


def _store(file: Path, tensors: dict[str, Tensor], known: str) -> None:
    file.parent.mkdir(exist_ok=True)
    content = safetensors.torch.save(tensors, {"made_from": known})
    rewrite(file, lambda stream: stream.write(content), shared=True)
