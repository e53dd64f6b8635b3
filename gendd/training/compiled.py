"""Compilation of the training step (--compile). Evaluation stays eager."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from gendd.config import Config
from gendd.core.distributed import World


def compile_options(config: Config, world: World) -> Mapping[str, Any]:
    """Return the options of torch.compile: CUDA graphs for one process on a GPU, without gradient accumulation.

    A graph writes to the same memory in each call, so a second micro-batch would overwrite the gradients of the first.
    """
    graphs = world.device.type == "cuda" and world.size == 1 and config.optimizer.grad_accum_steps == 1
    return {"mode": "reduce-overhead"} if graphs else {}


def begin_step(config: Config) -> None:
    """Let CUDA graphs overwrite the outputs of the last step."""
    if config.run.compile:
        torch.compiler.cudagraph_mark_step_begin()


def eager(config: Config) -> contextlib.AbstractContextManager:
    """Return a context in which compiled modules run eager: an evaluation keeps outputs of several batches."""
    return torch.compiler.set_stance("force_eager") if config.run.compile else contextlib.nullcontext()
