"""Creation of networks without memory for their parameters, which are then mapped from a file.

Only parameters are on the meta device. Buffers are computed as usual: files do not contain all of them, such as indices
of relative positions or frequencies of rotary position embeddings.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from gendd.core.errors import InvalidValue

META = torch.device("meta")
HALF = (torch.float16, torch.bfloat16)


def created_empty(create: Callable[[], nn.Module]) -> nn.Module:
    """Return a new network without memory for its parameters; with it, if it computes with them while it is created.

    Random numbers are drawn only in the second case.
    """
    try:
        with _empty_parameters():
            network = create()
    except Exception:  # Networks that compute with their parameters raise many kinds of errors.
        return create()
    return create() if any(buffer.is_meta for buffer in network.buffers()) else network


@contextlib.contextmanager
def _empty_parameters() -> Iterator[None]:
    """Create the parameters of new modules on the meta device, and keep the state of random numbers.

    `load_state_dict` replaces the parameters by the tensors that it is given, without a copy.
    """
    loading = False

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        # A parameter that two modules share stays one.
        if parameter is None or loading or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to(META), parameter.requires_grad)

    def load_state_dict(module: nn.Module, tensors: Mapping[str, Tensor], strict: bool = True, assign: bool = True):
        nonlocal loading
        loading = True
        try:
            return copying(module, tensors, strict, assign=True)
        finally:
            loading = False

    copying, hook = nn.Module.load_state_dict, register_module_parameter_registration_hook(on_meta)
    with torch.random.fork_rng(devices=[]):
        try:
            nn.Module.load_state_dict = load_state_dict
            yield
        finally:
            nn.Module.load_state_dict = copying
            hook.remove()


class MappedFile:
    """A file whose tensors are mapped into memory: they change if it is overwritten in place."""

    def __init__(self, path: Path):
        self.path, self.found = path, path.stat()

    def check(self) -> None:
        """Raise InvalidValue if the file was overwritten. One that was replaced or deleted stays mapped unchanged."""
        try:
            now = self.path.stat()
        except OSError:
            return
        same_file = now.st_ino == self.found.st_ino
        if same_file and (now.st_mtime_ns, now.st_size) != (self.found.st_mtime_ns, self.found.st_size):
            raise InvalidValue(
                self.path,
                "was overwritten while in use, which changes the weights; restore it, and write other weights to "
                "another file",
            )


def is_empty(network: nn.Module) -> bool:
    """Return whether parameters of a network do not have values."""
    return any(parameter.is_meta for parameter in network.parameters())


def without_values(network: nn.Module) -> nn.Module:
    """Return an empty network's copy on the meta device, which computes shapes and costs; another network itself."""
    return copy.deepcopy(network).to(META) if is_empty(network) else network


def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load some of a network's tensors. An empty network takes them without a copy, half precision as it is."""
    empty = is_empty(network)
    if empty:
        expected = network.state_dict()
        tensors = {name: _converted(value, expected[name]) for name, value in tensors.items()}
    network.load_state_dict(tensors, strict=False, assign=empty)


def _converted(value: Tensor, expected: Tensor) -> Tensor:
    return value if value.dtype in HALF and expected.is_floating_point() else value.to(expected.dtype)
