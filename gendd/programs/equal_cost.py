"""The equal-cost program of both families: find networks that cost as much as a student with its head."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from gendd.core.distributed import autocast, first_alone, hardware, resolve_precision
from gendd.core.errors import UserError
from gendd.core.ranges import Count, check_values
from gendd.evaluation.accuracy import Outputs, Stopwatch
from gendd.family import Family
from gendd.networks.cost import flops, parameter_count
from gendd.networks.create import create_network, trial
from gendd.programs.command_line import RunArgument, parse
from gendd.runs.experiment import load

NEAREST = 5


@dataclass(frozen=True)
class EqualCostConfig:
    """Find the networks that need about as many FLOPs per image as the student of a GenDD run with its head."""

    run: RunArgument
    """Run folder; its networks are timed with random weights."""
    batch_size: Count = 100
    """Images per batch."""
    rounds: Count = 20
    """Batches per network. The networks take turns."""


@dataclass(frozen=True)
class Timed:
    """A network to time: its cost and its stopwatch."""

    name: str
    flops: int
    parameters: int
    stopwatch: Stopwatch


def equal_cost(family: Family, arguments: list[str] | None = None) -> None:
    """Run the equal-cost program of a family.

    Raises:
        UserError: the path is not a run folder, or the run does not have a head.
    """
    config = parse(EqualCostConfig, f"{family.command} equal-cost", arguments)
    check_values(config)
    world = first_alone()
    if not world:
        return
    device = world.device
    run = load(config.run, family, device, trained=False)
    settings, task, size = run.config, run.task, run.config.data.image_size
    if task.head is None:
        raise UserError(f"run {config.run}: {settings.method.name} does not train a head; name a run of gendd")
    outputs = task.outputs_apart(run.model)
    if outputs[0][0].names != ("head",):
        raise UserError(f"run {config.run}: its head does not classify, as its teacher does not; name another run")
    precision = resolve_precision(settings.run.precision, device)
    image, noise = torch.zeros(1, 3, size, size, device=device), torch.Generator(device)
    rows = [
        Timed(
            f"{settings.networks.student}, {output.names[0]}",
            flops(partial(output.compute, image, noise)),
            parameters,
            Stopwatch(output),
        )
        for output, parameters in outputs
    ]
    classifier, cost = run.model.classifier, rows[0].flops
    classes = classifier.out_features if classifier else 0
    for name, operations, parameters in nearest(family, family.zoo.short, classes, size, cost)[:NEAREST]:
        network = create_network(name, family.zoo, classes, size)
        rows.append(Timed(name, operations, parameters, Stopwatch(_alone(network, device))))
    images = image.expand(config.batch_size, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), autocast(precision, device):
        for _ in range(config.rounds):
            for row in rows:
                row.stopwatch.compute(images, noise)
    print(f"{hardware(device)}, {precision}, {config.rounds} batches of {config.batch_size} images in turns\n")
    print("| network | MFLOPs per image | times the head's | parameters, M | images/s: median (least-greatest) |")
    print("|---|---|---|---|---|")
    for row in rows:
        rate = row.stopwatch.summary()
        cells = [row.name, f"{row.flops / 1e6:.1f}", f"{row.flops / cost:.2f}", f"{row.parameters / 1e6:.2f}"]
        print(f"| {' | '.join(cells)} | {rate['median']:.0f} ({rate['min']:.0f}-{rate['max']:.0f}) |")


def _alone(network: nn.Module, device: torch.device) -> Outputs:
    network = network.eval().to(device, memory_format=torch.channels_last)
    return Outputs(("classifier",), lambda images, _: {"classifier": network(images)})


def nearest(
    family: Family, names: Iterable[str], classes: int, image_size: int, cost: float
) -> list[tuple[str, int, int]]:
    """Return names, FLOPs per image and parameters of networks, sorted by the ratio of their FLOPs to `cost`."""
    counted = []
    for name in names:
        # Counting needs only shapes. Networks that do not take images of this size are skipped.
        with torch.device("meta"), contextlib.suppress(UserError):
            network = create_network(name, family.zoo, classes, image_size)
            counted.append((name, trial(name, network, image_size), parameter_count(network)))
    return sorted(counted, key=lambda entry: max(entry[1], cost) / min(entry[1], cost))
