"""Checks of named tensors: that their values are finite, and a checksum."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from gendd.core.errors import InvalidValue
from gendd.networks.meta import HALF


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that all values of the tensors are finite.

    Raises:
        InvalidValue: a value is not finite.
    """
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    # torch.isfinite does not support the 8-bit formats.
    wide = ((name, value.float() if value.itemsize == 1 else value) for name, value in floats.items())
    broken = [name for name, value in wide if not value.isfinite().all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise InvalidValue(source, f"{broken[0]}{more} holds values that are not finite; give other weights")


def checksum_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: of each name, in alphabetical order, with its shape, type and bytes.

    Half precision counts as float32, in which networks are usually created.
    """
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        value = value.float() if value.dtype in HALF else value
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
