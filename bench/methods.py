"""Compare the methods' training steps with logit distillation, and their inference costs.

    python bench/methods.py [--rounds 15]

resnet56 > resnet20 on random CIFAR-100 images, with the optimizer, batch and head of
`sh/train_cifar100_resnet56_resnet20_gendd_short.sh`, with and without the dense term. The methods take turns. Each step
is timed with the teacher and with its cached outputs (`--teacher-cache`). On one CPU thread, times are CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from machine import describe, the_device
from measure import Cached, take_turns, wall_clock

from gendd.core.distributed import autocast, resolve_precision
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import get_method
from gendd.methods.base import TaskContext
from gendd.networks.cost import flops
from gendd.networks.create import create_network
from gendd.training.optim import create_optimizer
from gendd_cifar.family import FAMILY

TEACHER, STUDENT, BATCH, STEPS = "resnet56", "resnet20", 128, 3
RECIPE = {
    "batch_size": BATCH,
    "optimizer": "muon",
    "lr": 2e-2,
    "head_lr": 3e-3,
}
HEAD = {"contraction": 0.5, "feature_mixup": 0, "width": 448}
DENSE = {"dense_grid": 4}
# Rows of the table: a method and its options.
ROWS = {
    "kd": ("kd", {}),
    "kd + dense": ("kd", DENSE),
    "kd-head": ("kd-head", {"width": HEAD["width"]}),
    "kd-head + dense": ("kd-head", {"width": HEAD["width"]} | DENSE),
    "regression": ("regression", HEAD),
    "regression + dense": ("regression", HEAD | DENSE),
    "gendd": ("gendd", HEAD),
    "gendd, probe gradient 0.05": ("gendd", HEAD | {"probe_gradient": 0.05}),
    "gendd + dense": ("gendd", HEAD | DENSE),
    "gendd + dense, 4 draws": ("gendd", HEAD | DENSE | {"dense_draws": 4}),
}


def build(method: str, options: dict) -> tuple[Callable[[bool], None], list[tuple[str, int]]]:
    """Return a function that runs training steps of a method, and the FLOPs per image of each of its outputs.

    The function's argument says whether the teacher's features are cached.
    """
    torch.manual_seed(0)
    device = the_device()
    config = FAMILY.config(get_method(method)(), **RECIPE, **options)
    teacher, student = (create_network(name, FAMILY.zoo, num_classes=100, image_size=32) for name in (TEACHER, STUDENT))
    precision = resolve_precision("auto", device)
    frozen = FrozenTeacher(teacher, student, device, precision, image_size=32, grid=config.method.dense_grid)
    task = config.method.build(TaskContext(config, student, frozen, {}, device))
    task.to(device, memory_format=torch.channels_last).train()
    optimizer = create_optimizer(task.trainable_module, config.optimizer, task.head, task.dense)
    images = torch.randn(BATCH, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,), device=device)
    batch = Batch(images, labels, next(BatchPlan(0, BATCH).micro_batches(0)))
    cache = Cached(frozen.outputs_of(images))

    def steps(cached: bool) -> None:
        frozen.cache = cache if cached else None
        for _ in range(STEPS):
            with autocast(precision, device):
                loss = task(batch)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    model, noise = task.model(), torch.Generator(device)
    outputs = task.outputs_apart(model)
    costs = [(each.names[0], flops(lambda each=each: each.compute(images[:1], noise))) for each, _ in outputs]
    return steps, costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed turns per method")
    rounds = parser.parse_args().rounds
    built = {name: build(*row) for name, row in ROWS.items()}
    ways = [(method, cached) for cached in (False, True) for method in ROWS]
    alone = the_device().type == "cpu" and torch.get_num_threads() == 1
    works = [lambda method=method, cached=cached: built[method][0](cached) for method, cached in ways]
    times = dict(zip(ways, take_turns(works, rounds, time.process_time if alone else wall_clock), strict=True))
    print(f"{describe()}; {TEACHER} > {STUDENT}, batch {BATCH}, n = {rounds} turns of {STEPS} steps\n")
    print(
        "| method | images/s | relative to kd | features cached: images/s | relative to kd | inference MFLOPs |\n"
        + "|---" * 6
        + "|"
    )
    for method in ROWS:
        cells = []
        for cached in (False, True):
            rates = [BATCH * STEPS / seconds for seconds in times[method, cached]]
            ratios = [kd / ours for kd, ours in zip(times["kd", cached], times[method, cached], strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            cells += [f"{statistics.median(rates):.0f}", spread]
        costs = ", ".join(f"{name} {cost / 1e6:.1f}" for name, cost in built[method][1])
        print(f"| {' | '.join([method, *cells, costs])} |")


if __name__ == "__main__":
    main()
