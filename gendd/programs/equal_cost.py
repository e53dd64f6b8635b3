"""The equal-cost program of both trees: which of the tree's networks cost as much as a student with its head."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from gendd.config import parse
from gendd.errors import UserError
from gendd.networks import create_network, flops, parameter_count
from gendd.programs.tree import Tree
from gendd.runs import RunFolder, saved_config

NEAREST = 5


@dataclass(frozen=True)
class EqualCostConfig:
    """Networks whose FLOPs an image are nearest to those of a GenDD run's head read-out: students to set beside it."""

    run: tyro.conf.Positional[str]
    """Run folder of a finished GenDD run."""


def equal_cost(tree: Tree, arguments: list[str] | None = None) -> None:
    """The equal-cost program of a tree.

    Raises:
        UserError: no run folder, or one that tells no head's cost.
    """
    config = parse(EqualCostConfig, f"{tree.name}.equal_cost", arguments)
    cost = RunFolder(Path(config.run)).read("result.json").get("read_outs", {}).get("head", {}).get("flops")
    if cost is None:
        raise UserError(f"run {config.run}: its result tells no cost of a head; name a finished run of gendd")
    settings = saved_config(Path(config.run), tree.train_config)
    classes = tree.summarize(settings).num_classes
    print(f"{settings.student} with its head: {cost / 1e6:.1f} MFLOPs an image. Nearest networks:\n")
    print("| network | MFLOPs an image | times the head's | parameters, M |\n|---|---|---|---|")
    for name, operations, parameters in nearest(tree, tree.names.short, classes, settings.image_size, cost)[:NEAREST]:
        print(f"| {name} | {operations / 1e6:.1f} | {operations / cost:.2f} | {parameters / 1e6:.2f} |")


def nearest(tree: Tree, names: Iterable[str], classes: int, image_size: int, cost: float) -> list[tuple[str, int, int]]:
    """Names, FLOPs an image and parameters of networks, those whose FLOPs are nearest to `cost` first, in ratio."""
    counted = []
    for name in names:
        # Shapes are all that counting needs.
        with torch.device("meta"):
            network = create_network("--student", name, tree.names, classes, image_size).eval()
            image = torch.zeros(1, 3, image_size, image_size)
        counted.append((name, flops(lambda network=network, image=image: network(image)), parameter_count(network)))
    return sorted(counted, key=lambda entry: max(entry[1], cost) / min(entry[1], cost))
