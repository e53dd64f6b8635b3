"""Values that one process per machine computes, and whose arrays all its processes map."""

import io
import mmap
import os
import pickle
import secrets
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from gendd.core.distributed import World
from gendd.core.errors import PassingFault, UserError

Value = TypeVar("Value")
# Each array begins at a multiple of this many bytes.
ALIGNMENT = 64
# Process, file descriptor, number in the memory's name, and place of the pickled value after the arrays.
Place = tuple[int, int, int, int]
NOWHERE: Place = (0, 0, 0, 0)


def shared(world: World, build: Callable[[], Value]) -> Value:
    """Return what `build` returns, without external resources, in all processes. All of them must call this.

    The first process of each machine calls `build`. All its processes map the arrays and CPU tensors from memory
    without a path, which the system frees after the last process, even a killed one. A process that changes an array
    changes only its own copy.

    Every process calls `build` itself if the first one fails, so that each raises the error, and where the memory
    cannot be mapped: on other systems than Linux, or if processes of a machine do not have consecutive ranks.
    """
    if world.size == 1 or not hasattr(os, "memfd_create"):
        return build()
    with ExitStack() as memory:
        place = NOWHERE
        if not world.local_rank:
            with suppress(UserError, PassingFault, OSError):
                place = _write(build(), memory)
        places = world.gather(torch.tensor([place], device=world.device))
        mapped: list[Value] = []
        with suppress(OSError):
            mapped.append(_mapped(*places[world.rank - world.local_rank].tolist()))
        # The others open the memory through its creator, which closes it after them.
        world.barrier()
    return mapped[0] if mapped else build()


def _write(value: Any, memory: ExitStack) -> Place:
    """Write a value into new memory; `memory` closes its file."""
    number = secrets.randbits(62)
    file = memory.enter_context(os.fdopen(os.memfd_create(_name(number)), "wb"))
    buffers: list[pickle.PickleBuffer] = []
    body = io.BytesIO()
    _Pickler(body, protocol=5, buffer_callback=buffers.append).dump(value)
    spans = []
    for buffer in buffers:
        begin = file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
        file.write(buffer.raw())
        spans.append((begin, file.tell()))
    end = file.tell()
    pickle.dump((body.getvalue(), spans), file)
    file.flush()
    return os.getpid(), file.fileno(), number, end


def _mapped(process: int, descriptor: int, number: int, end: int) -> Any:
    """Return the value in another process's memory.

    Raises:
        OSError: the memory cannot be opened.
    """
    with open(f"/proc/{process}/fd/{descriptor}", "rb") as file:
        # A process of another machine has other files.
        if _name(number) not in os.readlink(f"/proc/self/fd/{file.fileno()}"):
            raise FileNotFoundError
        file.seek(end)
        body, spans = pickle.load(file)  # noqa: S301 - a process of this run has written it
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return pickle.loads(body, buffers=[view[begin:end] for begin, end in spans])  # noqa: S301


def _name(number: int) -> str:
    return f"gendd-{number:016x}"


class _Pickler(pickle.Pickler):
    """Hand the memory of tensors to `buffer_callback`, as NumPy's arrays do; torch would copy it."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented
