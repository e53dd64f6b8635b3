"""Functions that return the networks given in this process, as attributes of this module.

A configuration names such a network `gendd.own.given:student_MyNet`, like any function of a user's module.
"""

import contextlib
from collections.abc import Callable, Iterator

from torch import nn

from gendd.core.errors import InvalidValue
from gendd.own.network import Network, as_timm

PREFIX = f"{__name__}:"
_FUNCTIONS: dict[str, Callable[..., nn.Module]] = {}


@contextlib.contextmanager
def networks(image_size: int, **roles: nn.Module | Network) -> Iterator[dict[str, str]]:
    """Register networks by role, "student" or "teacher", within the block; yield their names for a configuration.

    Raises:
        InvalidSetting: a network cannot be used (`as_timm`).
    """
    before, names = dict(_FUNCTIONS), {}
    for role, given in roles.items():
        module = given.module if isinstance(given, Network) else given
        name = f"{role}_{type(module).__name__}"
        _FUNCTIONS[name] = as_timm(role, given, image_size)
        names[role] = PREFIX + name
    try:
        yield names
    finally:
        _FUNCTIONS.clear()
        _FUNCTIONS.update(before)


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    role = name.partition("_")[0]
    if role not in ("student", "teacher"):
        raise AttributeError(name)
    raise InvalidValue(PREFIX + name, f"this network is a Python object; give it to gendd.load(..., {role}=network)")
