"""Pictures of features: projections to the teacher's principal components, and nearest images."""

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from gendd.evaluation.accuracy import feature_agreement, nearest
from gendd.networks import checkpoint
from gendd.reporting.finished import FinishedRun
from gendd.reporting.groups import Group
from gendd.reporting.pictures import DPI, LARGE, NORMAL, SMALL, WIDTH, parts_of, set_up

# Rows, columns and the color of frames in the picture of neighbors.
QUERIES, SHOWN_NEIGHBORS, FRAME = 6, 5, "#009E73"
PICTURED_CLASSES = 10
PANELS = {"teacher": "teacher's features f", "target": "targets f'", "generated": "generated features"}


def features(groups: list[Group]) -> Figure:
    """Draw teacher's features, targets and generated features on principal components, one row per group's first run.

    The components are those of the teacher's features.
    """
    heights = [2.9] * len(groups)
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout="constrained")
    for part, group in zip(parts_of(figure, heights), groups, strict=True):
        run = group.first
        tensors = checkpoint.read(run.folder.features)
        cosine = feature_agreement(tensors["generated"].float(), tensors["target"].float())["cosine"]
        images = f"first {len(tensors['labels'])} {run.result['split']} images"
        part.suptitle(
            f"{group.label}, seed {run.config['seed']}, {run.epochs} epochs: {run.networks}\n"
            f"mean cosine of generated features and targets {cosine:.2f} ({run.data}: {images})",
            fontsize=LARGE,
        )
        _feature_panels(part.subplots(1, 3, sharex=True, sharey=True), tensors)
    return figure


def _feature_panels(panels: Sequence[Axes], tensors: dict[str, Tensor]) -> None:
    mean, directions, shares = principal_plane(tensors["teacher"].float())
    classes = tensors["labels"].unique()[:PICTURED_CLASSES]
    pictured = torch.isin(tensors["labels"], classes)
    planes = {name: (tensors[name].float()[pictured] - mean) @ directions for name in PANELS}
    wanted = torch.cat([planes["teacher"], planes["target"]])
    middle = (wanted.amin(0) + wanted.amax(0)) / 2
    half = 1.05 * (wanted - middle).abs().max()
    # An untrained head generates distant features. The limit keeps them from shrinking the rest of the picture.
    half = (1.05 * (planes["generated"] - middle).abs().max()).clamp(half, 1.5 * half)
    for axes, (name, points) in zip(panels, planes.items(), strict=True):
        outside = int(((points - middle).abs() > half).any(1).sum())
        title = PANELS[name] + (f" ({outside} outside)" if outside else "")
        set_up(axes, title, f"component 1 ({shares[0]:.0%} of variance)")
        for number, label in enumerate(classes.tolist()):
            chosen = points[tensors["labels"][pictured] == label]
            across, up = chosen.T.numpy()
            axes.scatter(across, up, s=7, lw=0, alpha=0.8, color=f"C{number}", label=str(label))
        x_limits, y_limits = torch.stack([middle - half, middle + half], 1).tolist()
        axes.set(xlim=x_limits, ylim=y_limits, aspect="equal")
    panels[0].set_ylabel(f"component 2 ({shares[1]:.0%})", fontsize=NORMAL)
    if not classes.tolist() or classes[0] < 0:
        return
    panels[-1].legend(
        title="class", fontsize=SMALL, title_fontsize=SMALL, markerscale=2, frameon=False, handletextpad=0.1,
        loc="center left", bbox_to_anchor=(1, 0.5),
    )  # fmt: skip


def principal_plane(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (D,) of features (n, D), their first two directions (D, 2), and the shares of the variance.

    The largest component of a direction is positive, so that the same features give the same picture.
    """
    mean = features.mean(0)
    _, scales, directions = torch.linalg.svd(features - mean, full_matrices=False)
    directions = directions[:2].T
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    return mean, directions * signs, scales[:2].square() / scales.square().sum()


def neighbors(run: FinishedRun) -> Figure:
    """Draw some evaluation images, one per row, with the nearest images by features of teacher and student.

    The label of an image is its cosine. A frame marks images that both find.
    """
    tensors = checkpoint.read(run.folder.features)
    images = tensors["thumbnails"].permute(0, 2, 3, 1).numpy()
    rows, count = min(QUERIES, len(images)), min(SHOWN_NEIGHBORS, len(images) - 1)
    sides = {name: _nearest(tensors[key][: len(images)].float(), rows, count)
             for name, key in (("teacher", "teacher"), ("student", "generated"))}  # fmt: skip
    figure = Figure(figsize=(WIDTH, 0.95 * rows + 0.7), dpi=DPI, layout="constrained")
    figure.suptitle(
        f"{run.name}: nearest of {len(images) - 1} other {run.result['split']} images ({run.data})\n"
        "with the cosine of their features; framed: nearest by both",
        fontsize=LARGE,
    )
    widths = [1, *[count] * len(sides)]
    queries, *parts = figure.subfigures(1, len(widths), squeeze=False, width_ratios=widths)[0]
    for query, axes in enumerate(queries.subplots(rows, 1, squeeze=False)[:, 0]):
        # The blank label aligns the rows of the three parts.
        _thumbnail(axes, images[query], " ", framed=False)
    queries.suptitle("image", fontsize=NORMAL)
    for part, (name, found) in zip(parts, sides.items(), strict=True):
        part.suptitle(f"nearest by the {name}'s features", fontsize=NORMAL)
        for query, row in enumerate(part.subplots(rows, count, squeeze=False)):
            for axes, (index, cosine) in zip(row, found[query].items(), strict=True):
                _thumbnail(axes, images[index], f"{cosine:.2f}", all(index in side[query] for side in sides.values()))
    return figure


def _nearest(features: Tensor, rows: int, count: int) -> list[dict[int, float]]:
    """Return {index: cosine} of the nearest other rows for each of the first rows, the nearest first."""
    unit = normalize(features, dim=-1)
    found = nearest(features, count)[:rows]
    cosines = torch.einsum("qd,qnd->qn", unit[:rows], unit[found])
    return [dict(zip(*pair, strict=True)) for pair in zip(found.tolist(), cosines.tolist(), strict=True)]


def _thumbnail(axes: Axes, image, text: str, framed: bool) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(text, fontsize=SMALL, labelpad=2)
    for spine in axes.spines.values():
        spine.set(visible=framed, color=FRAME, linewidth=2.5)
