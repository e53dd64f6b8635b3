"""Compilation of the training step (--compile). Evaluation stays eager."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch._dynamo.exc import BackendCompilerFailed

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting
from gendd.core.stopping import Preempted, Stopping


def compile_options(config: Config, world: World) -> Mapping[str, Any]:
    """Return the options of torch.compile: CUDA graphs for one process on a GPU, without gradient accumulation.

    A graph writes to the same memory in each call, so a second micro-batch would overwrite the gradients of the first.
    """
    graphs = world.device.type == "cuda" and world.size == 1 and config.optimizer.grad_accum_steps == 1
    return {"mode": "reduce-overhead"} if graphs else {}


@contextlib.contextmanager
def compiling(stopping: Stopping) -> Iterator[None]:
    """Raise InvalidSetting where PyTorch fails to compile, with the first error of its C++ compiler if there is one.

    A signal to all processes of a job ends the C++ compiler too: then Preempted is raised instead.
    """
    try:
        yield
    except BackendCompilerFailed as failure:
        if stopping.requested:
            raise Preempted from failure
        lines = str(failure.inner_exception).splitlines() or [type(failure.inner_exception).__name__]
        cause = next((line for line in lines if "error: " in line), lines[0])
        reason = f"PyTorch {torch.__version__} cannot compile this training here ({cause.strip()})"
        raise InvalidSetting("compile", True, f"{reason}; train without it: `compile=False`") from failure


def begin_step(config: Config) -> None:
    """Let CUDA graphs overwrite the outputs of the last step."""
    if config.run.compile:
        torch.compiler.cudagraph_mark_step_begin()


def eager(config: Config) -> contextlib.AbstractContextManager:
    """Return a context in which compiled modules run eager: an evaluation keeps outputs of several batches."""
    return torch.compiler.set_stance("force_eager") if config.run.compile else contextlib.nullcontext()
