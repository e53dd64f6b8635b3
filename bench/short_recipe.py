"""Compare training steps of the short recipe with steps by timm's Muon: images/s, and operators per step.

    python bench/short_recipe.py

resnet56 > resnet20 by KD and by GenDD with the optimizer, batch and head of
`sh/train_cifar100_resnet56_resnet20_gendd_short.sh`: augmentation of 50,000 random images, teacher, student, optimizer
and means. The reference differs only in the optimizer. On a GPU the project's step is also timed compiled, with CUDA
graphs. On one CPU thread, times are CPU time.
"""

import time
from collections.abc import Callable

import torch
from machine import describe, the_device
from measure import Counted, record, seconds, take_turns, wall_clock
from methods import BATCH, HEAD, RECIPE, STEPS, STUDENT, TEACHER
from timm.optim import Muon as TimmsMuon

from gendd.config import Config
from gendd.core.distributed import World, autocast, missing_for_compile, resolve_precision
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Normalize
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import get_method
from gendd.methods.base import Task, TaskContext
from gendd.networks.create import create_network
from gendd.training.compiled import compile_options
from gendd.training.means import Means
from gendd.training.optim import create_optimizer
from gendd_cifar.data import TrainingImages
from gendd_cifar.family import FAMILY
from gendd_cifar.sources import Images, Source

ROUNDS, IMAGES, CLASSES = 15, 50_000, 100
METHODS = {"kd": {}, "gendd": HEAD}


def build(method: str, reference: bool = False, compiled: bool = False) -> Callable[[], None]:
    """Return a function that takes one training step.

    Args:
        reference: update with timm's Muon.
    """
    torch.manual_seed(0)
    device = the_device()
    world, plan = World(0, 1, 0, device), BatchPlan(0, BATCH)
    config = FAMILY.config(get_method(method)(), **RECIPE, **METHODS[method])
    teacher, student = (create_network(name, FAMILY.zoo, CLASSES, image_size=32) for name in (TEACHER, STUDENT))
    precision = resolve_precision("auto", device)
    context = TaskContext(config, student, FrozenTeacher(teacher, student, device, precision), {}, device)
    task = config.method.build(context).to(device, memory_format=torch.channels_last).train()
    optimizer = create_optimizer(task.trainable_module, config.optimizer, task.head)
    if compiled:
        options = compile_options(config, world)
        task.compile(**options)
        optimizer.compile(**options)
    optimizer = timms(task, config) if reference else optimizer
    images = Images(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), torch.randint(CLASSES, (IMAGES,)))
    data = TrainingImages(Source(images, (None,) * CLASSES), plan, Normalize.of(student, device), device)
    batches, means = data.batches(range(2**62)), Means({}, world)

    def step() -> None:
        if compiled:
            torch.compiler.cudagraph_mark_step_begin()
        with autocast(precision, device):
            losses = task(next(batches))
        losses["loss"].backward()
        means.add(losses)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def timms(task: Task, config: Config) -> TimmsMuon:
    """Return timm's Muon for the groups of the project's."""
    groups = create_optimizer(task.trainable_module, config.optimizer, task.head).param_groups
    names = ("params", "lr", "weight_decay", "use_fallback")
    groups = [{name: group[name] for name in names} for group in groups]
    betas = (config.optimizer.beta1, config.optimizer.beta2_start)
    return TimmsMuon(groups, momentum=config.optimizer.momentum, nesterov=True, betas=betas)


def operators(step: Callable[[], None]) -> Counted:
    """Count the operators of a step after the first, which creates the optimizer's state."""
    step()
    with Counted() as counted:
        step()
    return counted


def records(rounds: int = ROUNDS) -> list[dict]:
    """Return a record of each method and way, eager and compiled."""
    device = the_device()
    ways = ["eager"]
    if device.type == "cuda" and missing_for_compile(device) is None:
        ways.append("compiled")
    found = []
    for method in METHODS:
        plain = build(method, reference=True)
        steps = [build(method, compiled=way == "compiled") for way in ways]
        for step in steps:  # CUDA graphs are recorded in the first steps.
            seconds(lambda step=step: repeat(step))
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        works = [lambda step=step: repeat(step) for step in (plain, *steps)]
        reference, *times = take_turns(works, rounds, time.process_time if alone else wall_clock)
        for way, taken in zip(ways, times, strict=True):
            rates = [[BATCH * STEPS / value for value in values] for values in (reference, taken)]
            ratios = [one / other for one, other in zip(reference, taken, strict=True)]
            found.append(record(f"short_recipe/{method}/{way}", "images/s", *rates, ratios))
    return found


def repeat(step: Callable[[], None]) -> None:
    for _ in range(STEPS):
        step()


def main() -> None:
    print(describe())
    for method in METHODS:
        plain, ours = (operators(build(method, reference)) for reference in (True, False))
        print(f"{method}: {ours.total} operators, {ours.working} of them not views", end="; ")
        print(f"by timm's Muon {plain.total}, {plain.working}")
    print(*records(), sep="\n")


if __name__ == "__main__":
    main()
