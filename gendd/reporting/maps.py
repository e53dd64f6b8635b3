"""Pictures of feature maps: the first three principal components as colors, as in DINOv2."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from gendd.networks import checkpoint
from gendd.reporting.finished import FinishedRun
from gendd.reporting.pictures import DPI, LARGE, NORMAL

# Side of one image in the picture, in inches.
SIDE = 1.1
COLORS = 3


def maps(run: FinishedRun) -> Figure:
    """Draw evaluation images with the maps of the teacher and of the student's dense head, one column per image."""
    tensors = checkpoint.read(run.folder.maps)
    images, teacher, student = (tensors[name] for name in ("images", "teacher", "student"))
    rows = {"image": images.permute(0, 2, 3, 1), "teacher": None, "student": None}
    rows["teacher"], rows["student"] = colored(teacher.float(), student.float())
    figure = Figure(figsize=(SIDE * len(images) + 0.6, SIDE * len(rows) + 0.6), dpi=DPI, layout="constrained")
    figure.suptitle(
        f"{run.name}: feature maps of {run.result['split']} images ({run.data}); "
        f"teacher {'x'.join(map(str, teacher.shape[2:]))}, student {'x'.join(map(str, student.shape[2:]))}",
        fontsize=LARGE,
    )
    for axes, (name, pixels) in zip(figure.subplots(len(rows), len(images), squeeze=False), rows.items(), strict=True):
        axes[0].set_ylabel(name, fontsize=NORMAL)
        for place, picture in zip(axes, pixels, strict=True):
            place.imshow(picture.numpy(), interpolation="nearest")
            place.set(xticks=[], yticks=[])
    return figure


def colored(teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps as colors (n, h, w, 3) in [0, 1]: the teacher's first three principal components.

    Both maps, (n, D, h, w), use the same components and the same range, the teacher's 2nd to 98th percentile.
    """
    places = teacher.permute(0, 2, 3, 1).flatten(0, 2)
    mean = places.mean(0)
    directions = torch.linalg.svd(places - mean, full_matrices=False)[2][:COLORS].T
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    low, high = torch.quantile((places - mean) @ directions, torch.tensor([0.02, 0.98]), dim=0)

    def pixels(values: Tensor) -> Tensor:
        components = (values.permute(0, 2, 3, 1) - mean) @ directions
        scaled = ((components - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        # Maps of fewer than three channels leave the other colors dark.
        return torch.nn.functional.pad(scaled, (0, COLORS - scaled.shape[-1]))

    return pixels(teacher), pixels(student)
