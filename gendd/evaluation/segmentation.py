"""A linear classifier per location of feature maps, and its intersection over union with masks.

Shapes: N images, maps (N, D, h, w), masks (N, H, W) of class indices below C; `IGNORED` marks pixels without a class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gendd.core.seeding import generator
from gendd.evaluation.probes import LinearProbe, fit_by_lbfgs

IGNORED = 255
# More locations would not fit into the memory of the fit, and do not change a linear classifier.
MOST_LOCATIONS = 100_000


def cell_labels(masks: Tensor, rows: int, columns: int, num_classes: int) -> Tensor:
    """Return the most frequent class (N, h, w) of each cell of a grid; -1 for cells without a class."""
    # One class at a time: a one-hot tensor of all pixels would need gigabytes.
    pooled = [F.adaptive_avg_pool2d((masks == index).float(), (rows, columns)) for index in range(num_classes)]
    shares = torch.stack(pooled, 1)
    return shares.argmax(1).where(shares.sum(1) > 0, -1)


def fit_dense_probe(maps: Tensor, masks: Tensor, num_classes: int) -> tuple[LinearProbe, float]:
    """Fit a linear classifier to the locations of maps by L-BFGS; return it and its L2 penalty (`fit_by_lbfgs`)."""
    rows, columns = maps.shape[2:]
    labels = cell_labels(masks, rows, columns, num_classes).flatten()
    features = maps.permute(0, 2, 3, 1).flatten(0, 2).float()
    known = (labels >= 0).nonzero()[:, 0]
    chosen = known[torch.randperm(len(known), generator=generator("cpu", "dense probe"))[:MOST_LOCATIONS]]
    return fit_by_lbfgs(features[chosen], labels[chosen], num_classes)


def predicted_masks(probe: LinearProbe, maps: Tensor, height: int, width: int) -> Tensor:
    """Return the classes (N, H, W) of the logits, enlarged bilinearly."""
    logits = probe(maps.permute(0, 2, 3, 1).float()).permute(0, 3, 1, 2)
    return F.interpolate(logits, (height, width), mode="bilinear", align_corners=False).argmax(1)


def intersections_and_unions(predicted: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """Return pixel counts (2, C): intersection and union of predicted and true pixels of each class."""
    known = masks != IGNORED
    pairs = torch.bincount(num_classes * masks[known].long() + predicted[known], minlength=num_classes**2)
    counts = pairs.view(num_classes, num_classes)
    intersection = counts.diagonal()
    return torch.stack([intersection, counts.sum(0) + counts.sum(1) - intersection])


def mean_iou(counts: Tensor) -> float:
    """Return the mean intersection over union in percent, over the classes that occur, from counts (2, C)."""
    intersection, union = counts[:, counts[1] > 0].double()
    return 100 * (intersection / union).mean().item()
