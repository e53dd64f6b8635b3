"""The machine's own limits, measured: rate of matrix products, rate of memory.

    python bench/machine.py

What a work achieves is told as a share of these, from the same run.
"""

import platform
import statistics
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import torch
from measure import seconds

from gendd.core.distributed import hardware

# Side of the square matrices, and values of the memory test's arrays: beyond every cache.
SIDE = {"cpu": 2048, "cuda": 8192}
VALUES = {"cpu": 2**26, "cuda": 2**30}
REPEATS = 7


def the_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "torchvision", "timm")}}


def describe() -> str:
    """Hardware and versions in a line."""
    return ", ".join([hardware(the_device()), *(f"{name} {number}" for name, number in versions().items())])


@cache
def matrix_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second (a multiply-add counts two) of a large square matrix product."""
    device = the_device()
    side = SIDE[device.type]
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(one)
    return 2 * side**3 / _typical(lambda: torch.mm(one, other, out=result))


@cache
def memory_rate() -> float:
    """Bytes a second, read and written together, of copying an array."""
    device = the_device()
    source = torch.ones(VALUES[device.type], device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _typical(lambda: target.copy_(source))


def _typical(work: Callable[[], object]) -> float:
    """Median seconds of a call, after one that is not counted."""
    work()
    return statistics.median(seconds(work) for _ in range(REPEATS))


def limits() -> dict[str, float]:
    return {
        "bf16_flops_per_second": matrix_rate(torch.bfloat16),
        "fp32_flops_per_second": matrix_rate(torch.float32),
        "memory_bytes_per_second": memory_rate(),
    }


if __name__ == "__main__":
    print(describe())
    for name, rate in limits().items():
        print(f"{name:<26} {rate / 1e9:.0f} G")
