"""torchrun's environment: processes, devices, precision."""

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

from gendd.core.errors import InvalidSetting, UserError

# Of the system header sys/prctl.h.
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, and the device it computes on."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def local_first(self):
        """The first process of each machine goes first: it downloads what the others then find."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers: batch norm's statistics differ, and its are the saved ones."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def all_true(self, flag: torch.Tensor) -> bool:
        """Whether a boolean scalar holds in every process."""
        if self.size > 1:
            flag = flag.to(torch.int32)
            dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)

    def agrees(self, number: int) -> bool:
        """Whether all processes hold the same number."""
        first = torch.tensor(number, device=self.device)
        if self.size > 1:
            dist.broadcast(first, 0)
        return self.all_true(first == number)

    def all_reduce(self, counts: torch.Tensor) -> torch.Tensor:
        """Sum over all processes."""
        if self.size > 1:
            counts = counts.clone()
            dist.all_reduce(counts)
        return counts

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows (n, ...) of all processes, those of the first process first."""
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
    """This process's place in torchrun's environment. One GPU a process, else the CPU."""
    rank, size, local_rank = (
        int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    device = torch.device("cpu")
    if torch.cuda.is_available() and "CPU_PROCS" not in os.environ:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return World(rank, size, local_rank, device)


def first_alone() -> World | None:
    """A world of the first process alone, for work that is done once; None in the others, which have nothing to do."""
    place = this_process()
    return replace(place, size=1) if place.is_first else None


@contextlib.contextmanager
def join_world():
    """The group that torchrun's environment names, or this process alone."""
    world = this_process()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    if world.size > 1:
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=peer_timeout()))
    yield world
    # Only after success: a process that leaves with an error ends at once (`run_program`), waiting for nobody.
    if world.size > 1:
        # DistributedDataParallel must be gone before its process group; freed after it, the two can deadlock.
        gc.collect()
        dist.destroy_process_group()


def end_with_parent() -> None:
    """Have the system kill this process when its launcher ends, however that ends. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def peer_timeout() -> int:
    """Seconds until a process that waits for the others gives them up."""
    return whole_number(os.environ, "PEER_TIMEOUT", 600)


def whole_number(environment: Mapping[str, str], name: str, default: int, least: int = 1) -> int:
    """Value of an environment variable.

    Raises:
        UserError: no whole number, or too small.
    """
    value = environment.get(name, str(default))
    if not value.isdecimal() or int(value) < least:
        raise UserError(f"{name}={value}: must be a whole number, at least {least}")
    return int(value)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware(device: torch.device) -> str:
    """Name of the GPU, or of the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = "CPU"
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads"


def multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def missing_for_compile(device: torch.device) -> str | None:
    """What torch.compile needs on this device and does not find; None if all is there."""
    if device.type == "cuda" and not importlib.util.find_spec("triton"):
        return "the package triton"
    # Triton compiles its launchers, Inductor its kernels for the CPU.
    variable, usual = ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))
    named = os.environ.get(variable)
    compiler = next(filter(shutil.which, usual if named is None else [named]), None)
    if compiler is None:
        flags = f" (torch takes {variable} for the name of a program, without flags)" if " " in (named or "") else ""
        return f"the compiler {' or '.join(usual) if named is None else shlex.quote(named)}{flags}"
    return None if _finds_python_headers(compiler) else "Python.h, of Python's development files,"


def _finds_python_headers(compiler: str) -> bool:
    """What the compiler says: it may look in more folders than Python names."""
    folders = {sysconfig.get_path("include"), sysconfig.get_path("include", "posix_prefix")}
    command = [compiler, "-E", "-xc", *(f"-I{folder}" for folder in folders), "-"]
    asked = subprocess.run(command, input=b"#include <Python.h>", capture_output=True)
    return asked.returncode == 0 or b"Python.h" not in asked.stderr


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "fp32", for the precision asked for."""
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def check_batch(batch: int, world: int, grad_accum_steps: int, even: bool) -> None:
    """Refuse a global batch that does not divide into equal micro-batches; feature mixup pairs need even ones."""
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
