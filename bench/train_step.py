"""Compare a GenDD training step with the plain reference: images/s and memory.

    python bench/train_step.py

Both paths train copies of one student on random images, in turns. `step` has the same draws and arithmetic in both.
`step_default` is the project's default head, with another objective and fewer draws, with the same reference.
`step_equal_variance` has the fewest draws with which the student's gradient varies no more than the reference's
(`python bench/gradient_variance.py`). `cached` benchmarks do not run the teacher (`--teacher-cache`). The
project's step is timed eager and, if torch.compile works, compiled; the faster one counts. `memory` is the memory of a
step beyond the weights, with one process per path.
"""

import argparse
import copy
import itertools
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe, project_rate, the_device
from measure import Cached, peak_memory, record, seconds, take_turns
from reference import step_loss
from torch.utils.flop_counter import FlopCounterMode

from gendd.config import Config
from gendd.core.distributed import autocast, missing_for_compile, resolve_precision
from gendd.core.ranges import field_names
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.diffusion.options import HeadOptions
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import GenDD
from gendd.methods.base import TaskContext
from gendd.networks.create import create_network
from gendd_cifar.family import FAMILY

LARGE, SMALL = ("resnet32x4", "resnet8x4"), ("resnet110", "resnet32")
BATCH, WIDTH, ROUNDS = 64, 1024, 5
PUBLISHED = {name: value for name, value in FAMILY.paper.items() if name in field_names(HeadOptions)}
# The fewest draws with which the student's gradient varies no more than with the published (`gradient_variance.py`).
EQUAL_VARIANCE = PUBLISHED | {"repeats": 8, "draw_scheme": "antithetic"}
# Benchmarks of each pair, with the settings of the project's path.
WORKS = {
    LARGE: {
        "step": PUBLISHED,
        "step_equal_variance": EQUAL_VARIANCE,
        "step_cached_equal_variance": EQUAL_VARIANCE | {"cached": True},
        "step_default": {},
        "step_default_cached": {"cached": True},
    },
    SMALL: {"step": PUBLISHED},
}
PATHS = ("reference", "ours")


def build(
    path: str, pair: tuple[str, str], compiled: bool = False, cached: bool = False, **head
) -> tuple[Callable, Callable]:
    """Return two functions of a path, its loss and a whole step. Both paths start from the same weights.

    Args:
        cached: use stored teacher features. Excludes the time to read them, a fraction of a millisecond.
    """
    torch.manual_seed(0)
    device = the_device()
    config = Config(method=GenDD(width=WIDTH, **head)).changed(batch_size=BATCH)
    teacher, student = (create_network(name, FAMILY.zoo, num_classes=100, image_size=32) for name in pair)
    plain_teacher = copy.deepcopy(teacher).to(device).eval() if path == "reference" else None
    precision = resolve_precision("fp32" if path == "reference" else "auto", device)
    frozen = FrozenTeacher(teacher, student, device, precision)
    task = config.method.build(TaskContext(config, student, frozen, {}, device))
    random = next(BatchPlan(0, BATCH).micro_batches(0))
    trained = task.trainable_module.to(device).train()
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), torch.randint(100, (BATCH,), device=device)

    def reference_loss() -> torch.Tensor:
        draws, share = task.draws(random, device, task.head), task.mixup_share(random, device)
        return step_loss(trained, plain_teacher, images, labels, config.method.contraction, share, draws)

    def our_loss() -> torch.Tensor:
        with autocast(precision, device):
            return task(Batch(images, labels, random))["loss"]

    loss, options = reference_loss, {"foreach": False}
    if path == "ours":
        task.to(memory_format=torch.channels_last)
        images, loss, options = images.to(memory_format=torch.channels_last), our_loss, {"fused": True}
        if compiled:
            task.compile()
        if cached:
            frozen.cache = Cached(frozen.features_of(images))
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4, **options)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return loss, step


def records(rounds: int = ROUNDS, compiles: bool = True) -> list[dict]:
    compiles = compiles and missing_for_compile(the_device()) is None
    steps = [step_records(pair, works, rounds, compiles) for pair, works in WORKS.items()]
    return [*itertools.chain(*steps), memory_record(LARGE)]


def step_records(pair: tuple[str, str], works: dict[str, dict], rounds: int, compiles: bool) -> list[dict]:
    """Return a record per benchmark, all against one reference.

    "ratios" holds the ratio of each way, eager and compiled; "possible_ratio" is the ratio at the machine's limit.
    """
    loss, step = build("reference", pair, **PUBLISHED)
    print(f"{' > '.join(pair)}: loss of the reference {loss():.5f}", file=sys.stderr)
    steps, arithmetic = {}, {}
    for work, options in works.items():
        loss, steps[work, "eager"] = build("ours", pair, **options)
        arithmetic[work] = operations(loss)
        print(f"{work}: loss {loss():.5f}", file=sys.stderr)
        if compiles:
            _, steps[work, "compiled"] = build("ours", pair, compiled=True, **options)
            print(f"{work}: compiled in {seconds(steps[work, 'compiled']):.0f} s", file=sys.stderr)
    reference, *times = take_turns([step, *steps.values()], rounds)
    times, limit, found = dict(zip(steps, times, strict=True)), project_rate(), []
    for work in works:
        ratios = {
            way: [one / other for one, other in zip(reference, taken, strict=True)]
            for (name, way), taken in times.items()
            if name == work
        }
        way = max(ratios, key=lambda way: statistics.median(ratios[way]))
        rates = [[BATCH / taken for taken in path] for path in (reference, times[work, way])]
        result = record(f"{work}/{'-'.join(pair)}", "images/s", *rates, ratios[way])
        result["share_of_limit"] = arithmetic[work] * result["ours"] / BATCH / limit
        result["possible_ratio"] = limit * statistics.median(reference) / arithmetic[work]
        result["way"], result["ratios"] = way, {way: statistics.median(values) for way, values in ratios.items()}
        found.append(result)
    return found


def operations(loss: Callable[[], torch.Tensor]) -> int:
    """Count a step's floating-point operations in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    return counter.get_total_flops()


def memory_record(pair: tuple[str, str]) -> dict:
    """Measure the MB of both paths, each in a separate process."""
    values = []
    for path in PATHS:
        command = [sys.executable, Path(__file__), "--memory", path, "--pair", *pair]
        values.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    reference, ours = values
    return record(f"memory/{'-'.join(pair)}", "MB", [reference], [ours], [reference / ours])


def step_memory(path: str, pair: tuple[str, str]) -> float:
    """Return the peak MB of loss and gradient, beyond the memory in use before."""
    loss, _ = build(path, pair, **PUBLISHED)
    if the_device().type == "cuda":
        before = torch.cuda.memory_allocated()
    else:
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    _, peak = peak_memory(lambda: loss().backward())
    return (peak - before) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=PATHS, help="print the MB of this path's step, then stop")
    parser.add_argument("--pair", nargs=2, default=LARGE, help="teacher and student of --memory")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed steps of each path, in turns")
    arguments = parser.parse_args()
    if arguments.memory:
        print(step_memory(arguments.memory, tuple(arguments.pair)))
        return
    print(describe())
    print("\n| benchmark | unit | reference | project | ratio (min-max; n) | share of limit | limit's ratio | ways |")
    print("|---" * 8 + "|")
    for row in records(arguments.rounds):
        low, high = row["spread"]
        cells = [row["work"], row["unit"], f"{row['reference']:.1f}", f"{row['ours']:.1f}"]
        cells.append(f"{row['ratio']:.2f} ({low:.2f}-{high:.2f}; {row['n']})")
        if "ratios" in row:
            ways = ", ".join(f"{way} {ratio:.2f}" for way, ratio in row["ratios"].items())
            cells += [f"{row['share_of_limit']:.0%}", f"{row['possible_ratio']:.2f}", ways]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
