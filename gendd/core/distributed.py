"""Processes, devices and precision, from the environment that torchrun sets."""

import contextlib
import ctypes
import gc
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from gendd.core.errors import InvalidSetting, PassingFault, UserError

# From the system header sys/prctl.h.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class World:
    """The process group as this process sees it: its rank, the number of processes (`size`) and its device."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def local_first(self):
        """Run the block in the first process of each machine, then in the others, which find its downloads."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Broadcast the first process's buffers. Batch norm statistics differ by process; the checkpoint has these."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def all_true(self, flag: torch.Tensor) -> bool:
        """Return whether a boolean scalar is true in every process."""
        if self.size > 1:
            flag = flag.to(torch.int32)
            dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)

    def agrees(self, number: int) -> bool:
        """Return whether all processes have the same number."""
        first = torch.tensor(number, device=self.device)
        if self.size > 1:
            dist.broadcast(first, 0)
        return self.all_true(first == number)

    def all_reduce(self, counts: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes."""
        if self.size > 1:
            counts = counts.clone()
            dist.all_reduce(counts)
        return counts

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows (n, ...) of all processes, in the order of their ranks; n may differ by process."""
        if self.size == 1:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=self.device))
        most = max(int(count) for count in counts)
        padded = rows.new_zeros(most, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def describe(self) -> str:
        processes = f"{self.size} process{'es' if self.size > 1 else ''}"
        return f"{processes} on {hardware(self.device)}"


def this_process() -> World:
    """Return this process's rank and device, from torchrun's environment: one GPU per process, otherwise the CPU."""
    rank, size, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    device = torch.device("cpu")
    if torch.cuda.is_available() and "CPU_PROCS" not in os.environ:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return World(rank, size, local_rank, device)


def first_alone() -> World | None:
    """Return a world of size 1 in the first process, for work that is done once, and None in the other processes."""
    place = this_process()
    return replace(place, size=1) if place.is_first else None


@contextlib.contextmanager
def join_world():
    """Join the process group of torchrun's environment; without one, this process works alone.

    Raises:
        PassingFault: another process ended or did not answer.
    """
    world = this_process()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    try:
        if world.size > 1:
            backend = "nccl" if world.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=timedelta(seconds=peer_timeout()))
        yield world
    except RuntimeError as error:
        # gloo has no class of errors of its own; its messages start with a path of its sources.
        if world.size == 1 or not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        raise PassingFault(
            "lost another process, whose own message says why; correct this, and run the same command again to "
            f"resume ({str(error).splitlines()[0]})"
        ) from error
    # Only after success: after an error, `run_program` ends the process at once, without waiting for the others.
    if world.size > 1:
        # Free DistributedDataParallel before its process group is destroyed; otherwise the two can deadlock.
        gc.collect()
        dist.destroy_process_group()


def end_with_parent() -> None:
    """Ask the system to kill this process when its launcher ends, for any reason. Works on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def peer_timeout() -> int:
    """Return the seconds that a process waits for the others before it fails (PEER_TIMEOUT)."""
    return whole_number(os.environ, "PEER_TIMEOUT", 600)


def whole_number(environment: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """Return an environment variable as a whole number.

    Raises:
        UserError: the value is not a whole number, or it is less than `least`.
    """
    value = environment.get(name, str(default))
    if not value.isdecimal() or int(value) < least:
        raise UserError(f"{name}={value}: must be a whole number, at least {least}")
    return int(value)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware(device: torch.device) -> str:
    """Return the name of the GPU, or the name of the CPU and the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
    return "CPU"


def multiplies_bf16(device: torch.device) -> bool:
    """Return True if the device multiplies bf16 faster than fp32.

    Intel's AVX-512 BF16 instructions run at half the rate of fp32; its AMX unit, and AMD's AVX-512 BF16, are faster.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") and "Intel" not in _cpu_name())


def missing_for_compile(device: torch.device) -> str | None:
    """Return the first requirement of torch.compile that is missing for this device, or None."""
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "the package triton"
    # Triton compiles its launchers with CC; Inductor compiles its CPU kernels with CXX.
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable)
    compiler = next(filter(shutil.which, usual if named is None else [named]), None)
    if compiler is None:
        flags = f" (torch takes {variable} for the name of a program, without flags)" if " " in (named or "") else ""
        return f"the compiler {' or '.join(usual) if named is None else shlex.quote(named)}{flags}"
    return None if _finds_python_headers(compiler) else "Python.h, of Python's development files,"


def _finds_python_headers(compiler: str) -> bool:
    """Return whether the compiler finds Python.h. Ask it, as it may search more folders than Python lists."""
    folders = {sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")}
    command = [compiler, "-E", "-xc", *(f"-I{folder}" for folder in folders), "-"]
    asked = subprocess.run(command, input=b"#include <Python.h>", capture_output=True)
    return asked.returncode == 0 or b"Python.h" not in asked.stderr


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "bf16" or "fp32"; "auto" is bf16 where the device multiplies it."""
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def check_batch(batch: int, world: int, grad_accum_steps: int, even: bool, fewest: int = 1) -> None:
    """Check that a global batch divides into equal micro-batches of at least `fewest` images.

    Args:
        even: whether the micro-batches must be even, for the pairs of feature mixup.

    Raises:
        InvalidSetting: it does not; the message has the nearest batch size that does.
    """
    divisor = world * grad_accum_steps * (2 if even else 1)
    if batch % divisor:
        pairs = " x 2 images of a feature mixup pair" if even else ""
        nearest = max(divisor, round(batch / divisor) * divisor)
        raise InvalidSetting(
            "batch_size",
            batch,
            f"does not divide by {world} processes x `grad_accum_steps` {grad_accum_steps}{pairs}"
            f"; nearest that does: {nearest}",
        )
    if batch < fewest * divisor:
        reason = f"the method compares the images of a micro-batch, so it needs {fewest} of them"
        raise InvalidSetting("batch_size", batch, f"{reason}; choose at least {fewest * divisor}")
