"""Features of a trained student, computed once and stored in the run folder for all programs that evaluate them."""

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
from gendd.networks.features import pooled_feature
from gendd.runs.experiment import Experiment
from gendd.runs.folder import data_name

# Stored features are reused if the first batch differs by at most this relative norm: kernels round differently.
TOLERANCE = 0.01


@dataclass(frozen=True)
class ProbedFeatures:
    """Features (N, D) of N images, labels (N,) or (N, M) with several per image, and the names of the C classes.

    Args:
        dataset, split: source of the images.
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str | None, ...]
    dataset: str
    split: str


def probed_features(
    family: Family, path: str, run: Experiment, kind: str, world: World, of_training: bool = False, teacher: int = 0
) -> ProbedFeatures:
    """Return the features of the test or training images, from the file in the run folder or computed.

    Args:
        path: the run folder.
        kind: "backbone" for the features of the plain student, "generated" for the features of its head.
        teacher: place of the teacher whose features are generated, among those of the run.

    Raises:
        UserError: the images do not have labels, or their features are not finite.
    """
    settings = run.config
    data = family.access.open_evaluation(
        settings, BatchPlan(settings.run.seed, 1), world, run.student.network, of_training
    )
    if not data.class_names:
        raise UserError(f"run {path}: {described(data)} does not have labels; name a labeled data set with --dataset")
    batches, title = _batches(run, data, kind, world, teacher), "training images" if of_training else "test images"
    first = next(batches)
    made_from = {
        "weights": checksum(weights_file(path)),
        "dataset": str(Path(data.dataset).resolve()),
        "split": data.split,
        "images": data.size,
        "files": data.checksum(),
        "precision": resolve_precision(settings.run.precision, world.device),
        "sampling": {**settings.method.sampling(), "seed": settings.run.seed} if kind == "generated" else {},
    }
    known = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    number = f"-{teacher + 1}" if teacher else ""
    file = Path(path, "features", f"{data_name(data.dataset)}-{data.split}-{kind}{number}.safetensors")
    found = _stored(file, known, first, world)
    if not found:
        parts = tqdm(itertools.chain([first], batches), title, disable=None, leave=False)
        features, labels = map(torch.cat, zip(*parts, strict=True))
        if not features.isfinite().all():
            raise UserError(f"run {path}: its features of {described(data)} are not finite; choose another run")
        found = {"features": features, "labels": labels}
        _store(file, {name: values.cpu() for name, values in found.items()}, known)
    return ProbedFeatures(found["features"], found["labels"], data.class_names, data.dataset, data.split)


def _batches(run: Experiment, data: EvaluationData, kind: str, world: World, teacher: int):
    """Yield features (B, D) and labels (B,) of each batch."""
    network, settings = run.student.network, run.config
    precision, sampling = resolve_precision(settings.run.precision, world.device), settings.method.sampling()
    for number, images, labels in data.batches():
        with autocast(precision, world.device):
            if kind == "generated":
                noise = generator(world.device, settings.run.seed, "evaluation", number)
                feature = run.model.sample(images, noise, teacher=teacher, **sampling)
            else:
                feature = pooled_feature(network, images)
        yield feature.float(), labels


def _stored(file: Path, known: str, first: tuple[Tensor, Tensor], world: World) -> dict[str, Tensor] | None:
    """Return the content of the file if its source (`known`) and the first batch of features are unchanged."""
    try:
        if not file.exists() or metadata(file).get("made_from") != known:
            return None
        found = safetensors.torch.load_file(file, device=str(world.device))
    except (SafetensorError, OSError):
        return None
    features, labels = first
    stored = found["features"][: len(features)]
    difference = (stored - features).norm() / features.norm().clamp(min=torch.finfo(features.dtype).tiny)
    same = difference <= TOLERANCE and torch.equal(found["labels"][: len(labels)], labels)
    return found if same else None


def _store(file: Path, tensors: dict[str, Tensor], known: str) -> None:
    file.parent.mkdir(exist_ok=True)
    content = safetensors.torch.save(tensors, {"made_from": known})
    rewrite(file, lambda stream: stream.write(content), shared=True)
