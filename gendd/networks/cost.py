"""Parameters and floating-point operations of a network."""

from collections.abc import Callable

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Untracked(ModuleTracker):
    """Follows no module. torch's does, to count for each, and stumbles over views of parameters without gradients."""

    def __enter__(self) -> "_Untracked":
        return self

    def __exit__(self, *_) -> None:
        """There is nothing to undo."""


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call (a multiply-add counts two), matrix products and convolutions."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()
    with torch.no_grad(), counter:
        function()
    return counter.get_total_flops()


def as_flops(number: int) -> str:
    """Such as "7.3 GFLOPs"."""
    return f"{number / 1e9:.1f} GFLOPs" if number >= 1e9 else f"{number / 1e6:.1f} MFLOPs"
