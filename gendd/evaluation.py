"""Accuracy of every read-out, each test image counted exactly once over all processes."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from timm.task import ClassificationEvaluator
from torch import Tensor

from gendd.distributed import World
from gendd.networks import flops
from gendd.randomness import generator

# (number of the batch, images, labels): the batches are the same however many processes share them.
Batches = Iterable[tuple[int, Tensor, Tensor]]


@dataclass(frozen=True)
class ReadOut:
    """Named ways to classify images: `logits(images, generator)` gives (B, C) for each of `names`."""

    names: tuple[str, ...]
    logits: Callable[[Tensor, torch.Generator], dict[str, Tensor]]


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


@torch.no_grad()
def evaluate(
    read_out: ReadOut, batches: Batches, world: World, seed: int = 0, groups: dict[str, Tensor] | None = None
) -> dict[str, dict]:
    """Top-1 and top-5 (percent) of each read-out, and top-1 of each group of classes.

    Sampling noise depends on the seed and the batch's number, not on the process.
    """
    evaluators = {name: ClassificationEvaluator(device=world.device) for name in read_out.names}
    counters = {name: GroupCounter(groups or {}, world.device) for name in read_out.names}
    for number, images, labels in batches:
        outputs = read_out.logits(images, generator(world.device, seed, "evaluation", number))
        for name, evaluator in evaluators.items():
            evaluator.update(outputs[name], labels)
            counters[name].update(outputs[name], labels)
    results = {}
    for name, evaluator in evaluators.items():
        summary = evaluator.compute(distributed=world.size > 1)
        results[name] = {metric: round(summary[metric], 4) for metric in ("top1", "top5")}
        results[name] |= counters[name].compute(world)
    return results


def evaluate_with_cost(
    read_out: ReadOut,
    parameters: int,
    batches: Batches,
    image_size: int,
    world: World,
    seed: int = 0,
    groups: dict[str, Tensor] | None = None,
) -> dict:
    """Accuracies of a read-out of one name, as `evaluate` has them, with its "parameters", "flops" per image, and
    measured "images_per_second" (`Stopwatch.summary`)."""
    stopwatch = Stopwatch(read_out)
    (accuracy,) = evaluate(stopwatch, batches, world, seed, groups).values()
    image = torch.zeros(1, 3, image_size, image_size, device=world.device)
    cost = flops(partial(read_out.logits, image, torch.Generator(world.device)))
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
        self.names, self._logits = read_out.names, read_out.logits
        self.rates: list[float] = []
        self._warm = False

    def logits(self, images: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        if not self._warm:
            self._logits(images[:8], noise.clone_state())
            self._warm = True
        begin = self._now(images.device)
        result = self._logits(images, noise)
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
