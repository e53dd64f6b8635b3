"""Measure the machine's limits: the rates of matrix products and of memory.

    python bench/machine.py

Other benchmarks report their results as a share of these limits, measured in the same run.
"""

import platform
import statistics
from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import torch
from measure import seconds

from gendd.core.distributed import hardware, resolve_precision

# Side of the square matrices, and size of the memory test's arrays, which exceeds every cache.
SIDE = {"cpu": 2048, "cuda": 8192}
VALUES = {"cpu": 2**26, "cuda": 2**30}
REPEATS = 7


def the_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "torchvision", "timm")}}


def describe() -> str:
    """Return hardware and versions in one line."""
    return ", ".join([hardware(the_device()), *(f"{name} {number}" for name, number in versions().items())])


@cache
def matrix_rate(dtype: torch.dtype) -> float:
    """Measure floating-point operations per second of a large square matrix product; a multiply-add counts as two."""
    device = the_device()
    side = SIDE[device.type]
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(one)
    return 2 * side**3 / _typical(lambda: torch.mm(one, other, out=result))


def project_rate() -> float:
    """Measure `matrix_rate` in the precision that the project chooses on this device."""
    bf16 = resolve_precision("auto", the_device()) == "bf16"
    return matrix_rate(torch.bfloat16 if bf16 else torch.float32)


@cache
def memory_rate() -> float:
    """Measure bytes per second, read plus written, of copying an array."""
    device = the_device()
    source = torch.ones(VALUES[device.type], device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _typical(lambda: target.copy_(source))


def _typical(work: Callable[[], object]) -> float:
    """Return the median seconds per call, after an uncounted one."""
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
