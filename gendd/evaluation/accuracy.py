"""Accuracy of each output of a network. Each test image counts exactly once over all processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from gendd.core.distributed import World
from gendd.core.seeding import generator
from gendd.data.batch import Batches
from gendd.evaluation.scores import MOST_CHANCE, NEIGHBORS, SCORED, neighbors_by_chance
from gendd.networks.cost import flops

# Number of confidence bins for the expected calibration error.
BINS = 15


@dataclass(frozen=True)
class Outputs:
    """The named outputs of a network.

    Args:
        names: of the outputs.
        compute: function of images (B, 3, H, W) and a generator that returns logits (B, C) by name, or, with a
            `target`, features (B, D_t).
        target: function of images and labels that returns the teacher's features (B, D_t), to compare with; None for
            logits.
    """

    names: tuple[str, ...]
    compute: Callable[[Tensor, torch.Generator], dict[str, Tensor]]
    target: Callable[[Tensor, Tensor], Tensor] | None = None

    def among(self, classes: list[int]) -> "Outputs":
        """Return the outputs restricted to the logits of these classes; features stay whole."""
        if self.target:
            return self
        compute = lambda images, noise: {  # noqa: E731
            name: logits[:, classes] for name, logits in self.compute(images, noise).items()
        }
        return replace(self, compute=compute)


def class_groups(train_counts: Tensor) -> dict[str, Tensor]:
    """Return masks (C,) of the classes with many (> 100), medium and few (< 20) training images.

    The result is empty if all classes are in one group. The thresholds are from ImageNet-LT (Liu et al., 2019).
    """
    many, few = train_counts > 100, train_counts < 20
    groups = {"many": many, "medium": ~many & ~few, "few": few}
    groups = {name: members for name, members in groups.items() if members.any()}
    return groups if len(groups) > 1 else {}


class GroupCounter:
    """Top-1 accuracy (percent) per group of classes, over all processes."""

    def __init__(self, groups: dict[str, Tensor], device: torch.device):
        self.groups = {name: members.to(device) for name, members in groups.items()}
        # Number of images, and of correct predictions.
        self.counts = {name: torch.zeros(2, dtype=torch.int64, device=device) for name in groups}

    def update(self, logits: Tensor, labels: Tensor) -> None:
        hits = logits.argmax(-1) == labels
        for name, members in self.groups.items():
            inside = members[labels]
            self.counts[name] += torch.stack([inside.sum(), (inside & hits).sum()])

    def compute(self, world: World) -> dict[str, float]:
        results = {}
        for name, counts in self.counts.items():
            images, hits = world.all_reduce(counts).tolist()
            if images:
                results[name] = round(100 * hits / images, 4)
        return results


class CalibrationCounter:
    """Expected calibration error in percent (Guo et al., 2017), over all processes.

    It is the mean gap between confidence and accuracy over bins of equal confidence width, weighted by the number of
    images per bin.
    """

    def __init__(self, device: torch.device):
        # For each bin the sum of (hit - confidence); last, the number of images in all bins.
        self.gaps = torch.zeros(BINS + 1, dtype=torch.float64, device=device)

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        confidence, predicted = probabilities.double().max(-1)
        place = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
        self.gaps.scatter_add_(0, place, (predicted == labels).double() - confidence)
        self.gaps[-1] += len(labels)

    def compute(self, world: World) -> float:
        *gaps, images = world.all_reduce(self.gaps).tolist()
        return round(100 * sum(map(abs, gaps)) / max(images, 1), 4)


@torch.no_grad()
def evaluate(
    outputs: Outputs,
    batches: Batches,
    world: World,
    seed: int = 0,
    groups: dict[str, Tensor] | None = None,
    calibrated: bool = False,
) -> dict[str, dict]:
    """Return the scores of each output, in percent.

    Logits give top-1, over all images and per group of classes, and top-5 if there are more than five classes. With
    `calibrated` they also give "ece", the expected calibration error. Features give `feature_scores`.

    Sampling noise depends on the seed and the batch number, not on the process.
    """
    if outputs.target:
        return _evaluate_features(outputs, outputs.target, batches, world, seed)
    from timm.task import ClassificationEvaluator

    evaluators = {name: ClassificationEvaluator(device=world.device) for name in outputs.names}
    counters = {name: GroupCounter(groups or {}, world.device) for name in outputs.names}
    gaps = {name: CalibrationCounter(world.device) for name in outputs.names if calibrated}
    metrics = ["top1"]
    for number, images, labels in batches:
        logits = outputs.compute(images, generator(world.device, seed, "evaluation", number))
        metrics = ["top1", "top5"] if all(map(has_top5, logits.values())) else ["top1"]
        for name, evaluator in evaluators.items():
            seen = logits[name], one_label(logits[name], labels)
            evaluator.update(*seen)
            counters[name].update(*seen)
            if calibrated:
                gaps[name].update(seen[0].double().softmax(-1), seen[1])
    results = {}
    for name, evaluator in evaluators.items():
        summary = evaluator.compute(distributed=world.size > 1)
        results[name] = {metric: round(summary[metric], 4) for metric in metrics}
        results[name] |= counters[name].compute(world)
        if calibrated:
            results[name]["ece"] = gaps[name].compute(world)
    return results


def has_top5(logits: Tensor) -> bool:
    """Return whether logits (B, C) have more than five classes; with five or fewer, top-5 is always 100 %."""
    return logits.shape[1] > 5


def one_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return one label (B,) per image: from several labels (B, M), the one with the greatest logit.

    Labels (B,) are returned unchanged; -1 pads (B, M). A prediction thus counts as correct if it is any of the image's
    labels (ReaL; Beyer et al., 2020).
    """
    if labels.dim() == 1:
        return labels
    scores = logits.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, -torch.inf)
    return labels.gather(1, scores.argmax(1, keepdim=True))[:, 0]


def _evaluate_features(
    outputs: Outputs, target: Callable[[Tensor, Tensor], Tensor], batches: Batches, world: World, seed: int
) -> dict[str, dict]:
    """Return the `feature_scores` of each output over the images of all processes."""
    parts: dict[str, list[Tensor]] = {name: [] for name in (*outputs.names, "")}
    for number, images, labels in batches:
        noise = generator(world.device, seed, "evaluation", number)
        features = outputs.compute(images, noise) | {"": target(images, labels)}
        for name, part in parts.items():
            part.append(features[name].float())
    # With few images a process may get an empty share; take the width from the other processes.
    width = next((part[0].shape[1] for part in parts.values() if part), 0)
    width = int(world.gather(torch.tensor([width], device=world.device)).max())
    empty = torch.zeros(0, width, device=world.device)
    gathered = {name: world.gather(torch.cat([empty, *part])) for name, part in parts.items()}
    wanted = gathered.pop("")
    return {name: feature_scores(values, wanted) for name, values in gathered.items()}


def feature_scores(features: Tensor, target: Tensor) -> dict[str, float]:
    """Return scores of the agreement of features (N, D_t) with the teacher's, in percent.

    Returns:
        "cosine": the mean cosine over images.
        "r2": the explained share of the teacher's variance, summed over all dimensions. Left out if the variance is 0,
            as for one image.
        "neighbors": the share of an image's `NEIGHBORS` nearest images by the teacher's features, in cosine, that are
            also nearest by these features. Computed on the first `SCORED` images. Left out if chance alone gives more
            than `MOST_CHANCE`.
    """
    cosine = torch.nn.functional.cosine_similarity(features, target).mean()
    variance = (target - target.mean(0)).square().sum()
    scores = {"cosine": cosine}
    if variance > 0:
        scores["r2"] = 1 - (features - target).square().sum() / variance
    if neighbors_by_chance(len(target)) <= MOST_CHANCE:
        ours, theirs = (nearest(values[:SCORED], NEIGHBORS) for values in (features, target))
        scores["neighbors"] = (ours[:, :, None] == theirs[:, None, :]).any(1).float().mean()
    return {name: round(100 * value.item(), 4) for name, value in scores.items()}


def nearest(features: Tensor, count: int) -> Tensor:
    """Return the indices (N, count) of the nearest other rows of each row (N, D), by cosine."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    rows = []
    for first in range(0, len(unit), 1024):
        alike = unit[first : first + 1024] @ unit.T
        own = torch.arange(len(alike), device=unit.device)
        alike[own, first + own] = -torch.inf
        rows.append(alike.topk(count, dim=-1).indices)
    return torch.cat(rows)


def evaluate_with_cost(
    outputs: Outputs,
    parameters: int,
    batches: Batches,
    image_size: int,
    world: World,
    seed: int = 0,
    groups: dict[str, Tensor] | None = None,
    calibrated: bool = False,
) -> dict:
    """Evaluate a network with one output, and measure its inference cost.

    Returns:
        The scores of `evaluate`, "parameters", "flops" per image, and "images_per_second" (`Stopwatch.summary`).
    """
    stopwatch = Stopwatch(outputs)
    (accuracy,) = evaluate(stopwatch, batches, world, seed, groups, calibrated).values()
    image = torch.zeros(1, 3, image_size, image_size, device=world.device)
    cost = flops(partial(outputs.compute, image, torch.Generator(world.device)))
    return {**accuracy, "parameters": parameters, "flops": cost, "images_per_second": stopwatch.summary()}


def feature_agreement(generated: Tensor, target: Tensor) -> dict[str, float]:
    """Return the mean cosine of generated and target features (B, D_t), and their mean norms."""
    cosine = torch.nn.functional.cosine_similarity(generated, target)
    return {
        "cosine": cosine.mean().item(),
        "norm": generated.norm(dim=-1).mean().item(),
        "target_norm": target.norm(dim=-1).mean().item(),
    }


class Stopwatch:
    """`Outputs` that measure their rate (images/s) on each batch, after a warm-up call."""

    def __init__(self, outputs: Outputs):
        self.names, self.target, self._compute = outputs.names, outputs.target, outputs.compute
        self.rates: list[float] = []
        self._warm = False

    def compute(self, images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        if not self._warm:
            self._compute(images[:8], noise.clone_state())
            self._warm = True
        begin = self._now(images.device)
        result = self._compute(images, noise)
        self.rates.append(len(images) / (self._now(images.device) - begin))
        return result

    @staticmethod
    def _now(device: torch.device) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        # With one CPU thread, measure its CPU time: other processes on the same core do not count.
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        return time.thread_time() if alone else time.perf_counter()

    def summary(self) -> dict[str, float]:
        """Return the median, least and greatest rate of this process and the number of batches; {} before the first."""
        if not self.rates:
            return {}
        rates = self.rates
        return {"median": median(rates), "min": min(rates), "max": max(rates), "batches": len(rates)}
