"""Parameters and floating-point operations of a network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Untracked(ModuleTracker):
    """A tracker that ignores modules. torch's tracker counts per module, and fails at views of frozen parameters."""

    def __enter__(self) -> "_Untracked":
        return self

    def __exit__(self, *_) -> None:
        """Leave everything as it is."""


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention as matrix products. torch does not count its fused kernels for CPUs."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def flops(function: Callable[[], object]) -> int:
    """Count the floating-point operations of a call: matrix products and convolutions; a multiply-add counts as two."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()
    with torch.no_grad(), _plain_attention(), counter:
        function()
    return counter.get_total_flops()


def as_flops(number: int) -> str:
    """Format a number of operations, such as "7.3 GFLOPs"."""
    return f"{number / 1e9:.1f} GFLOPs" if number >= 1e9 else f"{number / 1e6:.1f} MFLOPs"
