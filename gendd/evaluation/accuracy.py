"""Accuracy of every read-out, each test image counted exactly once over all processes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from timm.task import ClassificationEvaluator
from torch import Tensor

from gendd.core.distributed import World
from gendd.core.seeding import generator
from gendd.data.batch import Batches
from gendd.evaluation.scores import MOST_CHANCE, NEIGHBORS, SCORED, neighbors_by_chance
from gendd.networks.cost import flops

# Of confidences, by which calibration is judged.
BINS = 15


@dataclass(frozen=True)
class ReadOut:
    """Named ways to read a network out: `outputs(images, generator)` gives for each of `names` logits (B, C), or,
    beside a `target` that gives the teacher's features (B, D_t) of images, features to compare with them."""

    names: tuple[str, ...]
    outputs: Callable[[Tensor, torch.Generator], dict[str, Tensor]]
    target: Callable[[Tensor], Tensor] | None = None


def class_groups(train_counts: Tensor) -> dict[str, Tensor]:
    """Classes with many (> 100), medium and few (< 20) training images, as (C,) bool; none if all are of one group.

    The thresholds are those of ImageNet-LT (Liu et al., 2019).
    """
    many, few = train_counts > 100, train_counts < 20
    groups = {"many": many, "medium": ~many & ~few, "few": few}
    groups = {name: members for name, members in groups.items() if members.any()}
    return groups if len(groups) > 1 else {}


class GroupCounter:
    """Top-1 (percent) of the images of each group of classes, counted over all processes."""

    def __init__(self, groups: dict[str, Tensor], device: torch.device):
        self.groups = {name: members.to(device) for name, members in groups.items()}
        # Rows: images, and those that were recognized.
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
    """Expected calibration error in percent (Guo et al., 2017), counted over all processes: by bins of equal width of
    the confidence, the mean gap between it and the accuracy, weighted by the images in the bin."""

    def __init__(self, device: torch.device):
        # Of each bin, the sum of hits less confidences; and of all, the number of images.
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
    read_out: ReadOut,
    batches: Batches,
    world: World,
    seed: int = 0,
    groups: dict[str, Tensor] | None = None,
    calibrated: bool = False,
) -> dict[str, dict]:
    """Return the top-1 (percent) of each read-out, in all and of each group of classes; of features `feature_scores`.

    Of more than five classes, the top-5 too. Calibrated: the expected calibration error, "ece", too.

    Sampling noise depends on the seed and the batch's number, not on the process.
    """
    if read_out.target:
        return _evaluate_features(read_out, read_out.target, batches, world, seed)
    evaluators = {name: ClassificationEvaluator(device=world.device) for name in read_out.names}
    counters = {name: GroupCounter(groups or {}, world.device) for name in read_out.names}
    gaps = {name: CalibrationCounter(world.device) for name in read_out.names if calibrated}
    metrics = ["top1"]
    for number, images, labels in batches:
        outputs = read_out.outputs(images, generator(world.device, seed, "evaluation", number))
        metrics = ["top1", "top5"] if all(map(has_top5, outputs.values())) else ["top1"]
        for name, evaluator in evaluators.items():
            seen = outputs[name], one_label(outputs[name], labels)
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
    """Return whether the top-5 of logits (B, C) says anything: of five classes, it is always 100 %."""
    return logits.shape[1] > 5


def one_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Labels (B,) as they are; of several an image (B, M), -1 where there are fewer, that of the greatest logit: an
    image is recognized where any of its labels is (ReaL; Beyer et al., 2020)."""
    if labels.dim() == 1:
        return labels
    scores = logits.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, -torch.inf)
    return labels.gather(1, scores.argmax(1, keepdim=True))[:, 0]


def _evaluate_features(
    read_out: ReadOut, target: Callable[[Tensor], Tensor], batches: Batches, world: World, seed: int
) -> dict[str, dict]:
    """`feature_scores` of each read-out; those of the first `SCORED` images' neighbors."""
    parts: dict[str, list[Tensor]] = {name: [] for name in (*read_out.names, "")}
    for number, images, _ in batches:
        noise = generator(world.device, seed, "evaluation", number)
        outputs = read_out.outputs(images, noise) | {"": target(images)}
        for name, part in parts.items():
            part.append(outputs[name].float())
    # Of few images a process may have none; the others know the width.
    width = next((part[0].shape[1] for part in parts.values() if part), 0)
    width = int(world.gather(torch.tensor([width], device=world.device)).max())
    empty = torch.zeros(0, width, device=world.device)
    features = {name: world.gather(torch.cat([empty, *part])) for name, part in parts.items()}
    target = features.pop("")
    return {name: feature_scores(values, target) for name, values in features.items()}


def feature_scores(features: Tensor, target: Tensor) -> dict[str, float]:
    """How well features (N, D_t) agree with the teacher's, each in percent.

    Returns:
        "cosine", mean over images; "r2", the share of the teacher's variance, of all dimensions together, that they
        explain, where there is any: one image has none; "neighbors", how many of an image's `NEIGHBORS` nearest others
        by the teacher's features, by cosine, are among its nearest by these. It is left out where chance alone gives
        more than `MOST_CHANCE`.
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
    """Numbers (N, count) of each row's nearest others (N, D) by cosine."""
    unit = torch.nn.functional.normalize(features, dim=-1)
    rows = []
    for first in range(0, len(unit), 1024):
        alike = unit[first : first + 1024] @ unit.T
        own = torch.arange(len(alike), device=unit.device)
        alike[own, first + own] = -torch.inf
        rows.append(alike.topk(count, dim=-1).indices)
    return torch.cat(rows)


def evaluate_with_cost(
    read_out: ReadOut,
    parameters: int,
    batches: Batches,
    image_size: int,
    world: World,
    seed: int = 0,
    groups: dict[str, Tensor] | None = None,
    calibrated: bool = False,
) -> dict:
    """Accuracies of a read-out of one name, as `evaluate` has them, with its "parameters", "flops" per image, and
    measured "images_per_second" (`Stopwatch.summary`)."""
    stopwatch = Stopwatch(read_out)
    (accuracy,) = evaluate(stopwatch, batches, world, seed, groups, calibrated).values()
    image = torch.zeros(1, 3, image_size, image_size, device=world.device)
    cost = flops(partial(read_out.outputs, image, torch.Generator(world.device)))
    return {**accuracy, "parameters": parameters, "flops": cost, "images_per_second": stopwatch.summary()}


def feature_agreement(generated: Tensor, target: Tensor) -> dict[str, float]:
    """Mean cosine of generated and target features (B, D_t), and their mean norms."""
    cosine = torch.nn.functional.cosine_similarity(generated, target)
    return {
        "cosine": cosine.mean().item(),
        "norm": generated.norm(dim=-1).mean().item(),
        "target_norm": target.norm(dim=-1).mean().item(),
    }


class Stopwatch:
    """A read-out that notes its rate, images/s, on every batch, after a warm-up call."""

    def __init__(self, read_out: ReadOut):
        self.names, self.target, self._outputs = read_out.names, read_out.target, read_out.outputs
        self.rates: list[float] = []
        self._warm = False

    def outputs(self, images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        if not self._warm:
            self._outputs(images[:8], noise.clone_state())
            self._warm = True
        begin = self._now(images.device)
        result = self._outputs(images, noise)
        self.rates.append(len(images) / (self._now(images.device) - begin))
        return result

    @staticmethod
    def _now(device: torch.device) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        # One thread's own time, where one does all the work, knows nothing of others that share its core.
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        return time.thread_time() if alone else time.perf_counter()

    def summary(self) -> dict[str, float]:
        """Median, least and greatest rate of this process, and the number of batches they are of; empty without any."""
        if not self.rates:
            return {}
        rates = sorted(self.rates)
        return {"median": rates[len(rates) // 2], "min": rates[0], "max": rates[-1], "batches": len(rates)}
