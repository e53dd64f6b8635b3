"""Functions that return the networks given in this process, as attributes of this module.

A configuration names such a network `gendd.own.given:student_MyNet`, like any function of a user's module.
"""

from collections.abc import Callable

from torch import nn

from gendd.own.network import Network, as_timm

PREFIX = f"{__name__}:"
_FUNCTIONS: dict[str, Callable[..., nn.Module]] = {}


def give(role: str, given: nn.Module | Network, image_size: int) -> str:
    """Register a network as "student" or "teacher", and return its name for a configuration.

    Raises:
        InvalidSetting: the network cannot be used (`as_timm`).
    """
    module = given.module if isinstance(given, Network) else given
    name = f"{role}_{type(module).__name__}"
    _FUNCTIONS[name] = as_timm(role, given, image_size)
    return PREFIX + name


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    role = name.partition("_")[0]
    raise AttributeError(f"this network is a Python object; give it to gendd.load(..., {role}=network)")
