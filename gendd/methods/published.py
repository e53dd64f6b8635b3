"""The method of a file that others published, without a configuration."""

from typing import Any

from gendd.diffusion.head import PAPER
from gendd.methods.base import Method
from gendd.methods.classification import Classification
from gendd.methods.gendd import GenDD
from gendd.methods.options import NOISE_OUTPUT
from gendd.networks.checkpoint import Tensors


def method_of(tensors: Tensors) -> Method:
    """Return the method of a file without a configuration: published GenDD if it has a head, else a plain network."""
    if "head.net.input_proj.weight" not in tensors:
        return Classification()
    width, token_dim = tensors["head.net.input_proj.weight"].shape
    depth = sum(name.endswith(".in_ln.weight") for name in tensors)
    published: dict[str, Any] = PAPER | {"depth": depth, "feature_space": "raw"} | NOISE_OUTPUT
    return GenDD(token_dim=token_dim, width=width, **published)
