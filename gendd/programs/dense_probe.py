"""The dense-probe program: a linear classifier per location of the feature maps of student and teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from gendd.core.distributed import first_alone
from gendd.core.errors import InvalidValue, MissingFile, UserError, naming
from gendd.core.ranges import Range, check_values
from gendd.core.seeding import generator
from gendd.data.batch import Normalize
from gendd.data.masked_images import MaskedImages
from gendd.evaluation.segmentation import (
    IGNORED,
    fit_dense_probe,
    intersections_and_unions,
    mean_iou,
    predicted_masks,
)
from gendd.family import Family
from gendd.networks.feature_map import features_and_map
from gendd.programs.command_line import RunArgument, parse
from gendd.programs.figures import figures_file, write_figures
from gendd.runs.environment import environment
from gendd.runs.experiment import Experiment, load
from gendd.runs.folder import progress

BATCH = 32

Maps = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DenseProbeConfig:
    """Fit a linear classifier to each location of frozen feature maps, and report its mean IoU with masks.

    The folder has images/NAME.jpg and masks/NAME.png. Gray values are classes; 255 marks pixels to ignore.
    """

    run: RunArgument
    """Run folder."""
    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="FOLDER")]]
    """Folder with images/ and masks/."""
    holdout: Annotated[float, Range(0, 0.9, above=True)] = 0.2
    """Fraction of the images to evaluate on. The classifier is fitted to the others."""
    json: str | None = None
    """File for the figures. dense-probe-<folder>.json in the folder of the run if not given."""


def dense_probe(family: Family, arguments: list[str]) -> None:
    """Run the dense-probe program of a family.

    Raises:
        UserError: the path is not a run, or the folder does not hold images with masks.
    """
    config = parse(DenseProbeConfig, f"{family.command} dense-probe", arguments)
    check_values(config)
    world = first_alone()
    if not world:
        return
    with naming("FOLDER"):
        data = MaskedImages(config.folder, IGNORED)
    run, path = _with_teacher(config.run, family, world.device), Path(config.run)
    place = path if path.is_dir() else path.parent
    file = figures_file(config.json, place, "dense-probe", Path(config.folder).resolve().name)
    print(f"run {config.run}{progress(path, run.epoch)}", flush=True)
    size, order = run.config.data.image_size, torch.randperm(len(data.images), generator=generator("cpu", "masks"))
    held = max(1, round(config.holdout * len(order)))
    print(f"{len(order) - held} images to fit, {held} to evaluate, {len(data.classes)} classes, {size}x{size} pixels")
    normalize = Normalize.of(run.backbone, world.device)
    scores = {}
    for name, maps in maps_of(run).items():
        scores[name] = _score(
            data, order, held, size, lambda pixels, maps=maps: maps(normalize(pixels.to(world.device)))
        )
        print(f"  {name:<8} mean IoU {scores[name]:.2f} %", flush=True)
    settings = {"run": config.run, "folder": config.folder, "images": held, "training images": len(order) - held}
    write_figures(
        file, settings | {"classes": data.classes, "mean_iou": scores, "epoch": run.epoch} | environment(world)
    )


def _with_teacher(path: str, family: Family, device: torch.device) -> Experiment:
    """Load the run with its teacher, or without if the file of its weights is missing."""
    try:
        return load(path, family, device, with_teacher=True)
    except MissingFile as absent:
        print(f"the teacher is not evaluated: {absent}")
        run = load(path, family, device)
        run.teacher = None
        return run


def maps_of(run: Experiment) -> dict[str, Maps]:
    """Return the maps to evaluate by name: of the student, of its dense head, and of the teacher.

    Raises:
        UserError: the student does not have a map.
    """
    network = run.backbone.eval()
    layers = run.task.dense.layers if run.task.dense is not None else ()

    def student(images: Tensor) -> Tensor:
        return features_and_map(network, images, layers)[1]

    found: dict[str, Maps] = {"student": student}
    if run.task.dense is not None:
        found["dense"] = run.dense
    teacher = run.teacher
    if teacher:
        try:
            size = run.config.data.image_size
            teacher.whole_map(torch.zeros(1, 3, size, size, device=run.device))
        except InvalidValue as error:
            print(f"the teacher is not evaluated: {error}")
        else:
            found["teacher"] = teacher.whole_map
    return found


@torch.no_grad()
def _score(data: MaskedImages, order: Tensor, held: int, size: int, maps: Maps) -> float:
    """Return the mean IoU in percent on the first `held` images of the order, after a fit to the others."""
    features, masks = _read(data, order[held:], size, maps)
    with torch.enable_grad(), naming("FOLDER", str(data.folder)):
        probe, _ = fit_dense_probe(features, masks, len(data.classes))
    counts = torch.zeros(2, len(data.classes), dtype=torch.int64)
    for part in order[:held].split(BATCH):
        features, masks = _read(data, part, size, maps)
        predicted = predicted_masks(probe, features, size, size)
        counts += intersections_and_unions(predicted, masks, len(data.classes))
    return mean_iou(counts)


def _read(data: MaskedImages, indices: Tensor, size: int, maps: Maps) -> tuple[Tensor, Tensor]:
    """Return the maps (N, D, h, w) of some images and their masks (N, S, S)."""
    found, masks = [], []
    for part in indices.split(BATCH):
        images, own = zip(*(data.load(index, size) for index in part.tolist()), strict=True)
        found.append(maps(torch.stack(images)).cpu())
        masks.append(torch.stack(own))
    read = torch.cat(found)
    if not read.isfinite().all():
        raise UserError("a feature map is not finite; choose another run")
    return read, torch.cat(masks)
