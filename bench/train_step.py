"""A GenDD training step beside the plain reference path, in one run: images/s and memory.

    python bench/train_step.py

On random images both paths train copies of one student, taking turns. `step` has the same draws and arithmetic in
both. `step_equal_variance` has as few draws as give the student's gradient the reference's variance
(`python bench/gradient_variance.py`). `memory` is what a step needs beyond the weights, a path a process.
"""

import argparse
import copy
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe, matrix_rate, the_device
from measure import peak_memory, record, take_turns
from reference import step_loss
from torch.utils.flop_counter import FlopCounterMode

from gendd.config import TrainConfig
from gendd.distributed import autocast, resolve_precision
from gendd.methods import Ingredients, get_method
from gendd.networks import create_network
from gendd.randomness import BatchPlan
from gendd.teacher import FrozenTeacher
from gendd_cifar.tree import TREE

LARGE, SMALL = ("resnet32x4", "resnet8x4"), ("resnet110", "resnet32")
BATCH, WIDTH, ROUNDS = 64, 1024, 3
PUBLISHED = {"repeats": 30, "timesteps": "independent"}
# Draws whose gradient of the student varies less than with the published ones (0.71 of it, `gradient_variance.py`).
EQUAL_VARIANCE = {"repeats": 8, "timesteps": "paired"}
PATHS = ("reference", "ours")


def build(path: str, pair: tuple[str, str], compiled: bool = False, **head) -> tuple[Callable, Callable]:
    """The loss of a path as a function, and a whole step; from the same weights whatever the path."""
    torch.manual_seed(0)
    device = the_device()
    config = TrainConfig(batch_size=BATCH, width=WIDTH, **head)
    teacher, student = (
        create_network(flag, name, TREE.names, num_classes=100, image_size=32)
        for flag, name in zip(("--teacher", "--student"), pair, strict=True)
    )
    plain_teacher = copy.deepcopy(teacher).to(device).eval() if path == "reference" else None
    precision = resolve_precision("fp32" if path == "reference" else "auto", device)
    task = get_method("gendd").build(
        Ingredients(config, student, FrozenTeacher(teacher, student, device, precision), {}, device)
    )
    task.random = next(BatchPlan(0, BATCH).parts(0))
    trained = task.trainable_module.to(device).train()
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), torch.randint(100, (BATCH,), device=device)

    def reference_loss() -> torch.Tensor:
        draws, share = task.head.draw(BATCH, task.random.generator("diffusion", device)), task.mixup_share(device)
        return step_loss(trained, plain_teacher, images, labels, config.contraction, share, draws)

    def our_loss() -> torch.Tensor:
        with autocast(precision, device):
            return task(images, labels)["loss"]

    loss, options = reference_loss, {"foreach": False}
    if path == "ours":
        task.to(memory_format=torch.channels_last)
        images, loss, options = images.to(memory_format=torch.channels_last), our_loss, {"fused": True}
        if compiled:
            task.compile()
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4, **options)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return loss, step


def records(compiled: bool = False, rounds: int = ROUNDS) -> list[dict]:
    equal = ("step_equal_variance", EQUAL_VARIANCE)
    return [
        *step_records(LARGE, (("step", PUBLISHED), equal), compiled, rounds),
        *step_records(SMALL, (("step", PUBLISHED),), compiled, rounds),
        memory_record(LARGE),
    ]


def step_records(pair: tuple[str, str], works: tuple, compiled: bool, rounds: int) -> list[dict]:
    """A record of each (work, its draws), all beside one reference."""
    loss, step = build("reference", pair, **PUBLISHED)
    ours = [build("ours", pair, compiled, **head) for _, head in works]
    print(f"{' > '.join(pair)}: loss of the reference {loss():.5f}, of ours {ours[0][0]():.5f}", file=sys.stderr)
    reference, *times = take_turns([step, *(step for _, step in ours)], rounds)
    limit = matrix_rate(torch.bfloat16)
    found = []
    for (work, head), seconds in zip(works, times, strict=True):
        arithmetic = operations(build("ours", pair, **head)[0])
        result = record(
            f"{work}/{'-'.join(pair)}",
            "images/s",
            [BATCH / value for value in reference],
            [BATCH / value for value in seconds],
            [one / other for one, other in zip(reference, seconds, strict=True)],
        )
        result["share_of_limit"] = arithmetic * result["ours"] / BATCH / limit
        found.append(result)
    return found


def operations(loss: Callable[[], torch.Tensor]) -> int:
    """Floating-point operations of a step, in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def memory_record(pair: tuple[str, str]) -> dict:
    """Both paths' MB, each in a process of its own."""
    values = []
    for path in PATHS:
        command = [sys.executable, Path(__file__), "--memory", path, "--pair", *pair]
        values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    reference, ours = values
    return record(f"memory/{'-'.join(pair)}", "MB", [reference], [ours], [reference / ours])


def step_memory(path: str, pair: tuple[str, str]) -> float:
    """MB that loss and gradient need at their peak, beyond what is there before."""
    loss, _ = build(path, pair, **PUBLISHED)
    if the_device().type == "cuda":
        before = torch.cuda.memory_allocated()
    else:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    _, peak = peak_memory(lambda: loss().backward())
    return (peak - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=PATHS, help="print the MB of this path's step, and stop")
    parser.add_argument("--pair", nargs=2, default=LARGE, help="teacher and student of --memory")
    parser.add_argument("--compile", action="store_true", help="torch.compile ours, before the timing")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed steps of each path, in turns")
    arguments = parser.parse_args()
    if arguments.memory:
        print(step_memory(arguments.memory, tuple(arguments.pair)))
        return
    print(describe())
    print(
        "\n| work | unit | reference | ours | ratio (min-max) | share of the limit | n |\n|---|---|---|---|---|---|---|"
    )
    for row in records(arguments.compile, arguments.rounds):
        low, high = row["spread"]
        share = "" if row["share_of_limit"] is None else f"{row['share_of_limit']:.0%}"
        values = [f"{row['reference']:.1f}", f"{row['ours']:.1f}", f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})", share]
        print(f"| {' | '.join([row['work'], row['unit'], *values, str(row['n'])])} |")


if __name__ == "__main__":
    main()
