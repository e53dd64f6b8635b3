"""Profile a training step by kind of operation, eager and compiled, next to the minimum at the machine's matrix rate.

    python bench/step_profile.py

It uses the pairs and published draws of train_step.py, in bf16 if the hardware supports it. Times are per step and per
operation, from torch's profiler, which slows all operations a little. The compiler's fused kernels replace the rows
"norms" and "element by element".
"""

import statistics
from collections.abc import Callable

import torch
from machine import describe, project_rate
from measure import seconds
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode
from train_step import LARGE, PUBLISHED, SMALL, build

from gendd.distillation.teacher import FrozenTeacher

STEPS = 3
TEACHER = "teacher's forward pass"
MATRICES, CONVOLUTIONS, REST = "matrix products", "convolutions", "element by element and the rest"
# An operation belongs to the first kind with a word that its name contains.
KINDS = {
    CONVOLUTIONS: ("conv",),
    MATRICES: ("mm", "linear", "matmul"),
    "norms": ("norm",),
    "optimizer": ("adam",),
    "random numbers": ("normal_", "uniform_", "rand"),
    "copies and casts": ("copy", "clone", "_to_"),
    "fused by the compiler": ("Compiled", "compiled", "cpp_fused"),
}


def main() -> None:
    print(describe())
    mark_teacher()
    for pair in (LARGE, SMALL):
        loss, step = build("ours", pair, **PUBLISHED)
        _, compiled = build("ours", pair, compiled=True, **PUBLISHED)
        limits = least_milliseconds(loss)
        columns = [by_kind(step), by_kind(compiled)]
        print(f"\n| {' > '.join(pair)}: ms per step | eager | compiled | at the matrix rate |\n|---|---|---|---|")
        for kind in (*KINDS, REST):
            print(f"| {kind} | {' | '.join(f'{column[kind]:.0f}' for column in columns)} | {_cell(limits.get(kind))} |")
        totals = [sum(column[kind] for kind in (*KINDS, REST)) for column in columns]
        print(f"| all | {' | '.join(f'{total:.0f}' for total in totals)} | {sum(limits.values()):.0f} |")
        print(f"| including the teacher | {' | '.join(f'{column[TEACHER]:.0f}' for column in columns)} | |")
        walls = [1000 * statistics.median(seconds(work) for _ in range(STEPS)) for work in (step, compiled)]
        print(f"| without the profiler | {' | '.join(f'{wall:.0f}' for wall in walls)} | |")


def mark_teacher() -> None:
    """Show the teacher to the profiler as one event."""
    forward = FrozenTeacher.forward

    def marked(self, *arguments, **keywords):
        with record_function(TEACHER):
            return forward(self, *arguments, **keywords)

    FrozenTeacher.forward = marked


def by_kind(step: Callable[[], object]) -> dict[str, float]:
    """Return the milliseconds per step of each kind of operation, excluding nested ones, and of the whole teacher."""
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            step()
    times = dict.fromkeys((*KINDS, REST), 0.0)
    for event in profiled.key_averages():
        if event.key == TEACHER:
            times[TEACHER] = event.cpu_time_total / 1000 / STEPS
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), REST)
        times[kind] += event.self_cpu_time_total / 1000 / STEPS
    return times


def least_milliseconds(loss: Callable[[], torch.Tensor]) -> dict[str, float]:
    """Return the milliseconds of a step's matrix products and convolutions at the machine's matrix rate."""
    with FlopCounterMode(display=False) as counter:
        loss().backward()
    times = dict.fromkeys((CONVOLUTIONS, MATRICES), 0.0)
    for operation, count in counter.get_flop_counts()["Global"].items():
        kind = CONVOLUTIONS if "conv" in str(operation) else MATRICES
        times[kind] += 1000 * count / project_rate()
    return times


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


if __name__ == "__main__":
    main()
