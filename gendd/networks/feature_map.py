"""The feature map of a network with timm's interface, from its last layer or an earlier stage."""

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.errors import InvalidValue


def features_and_map(network: nn.Module, images: Tensor, layers: Sequence[int] = ()) -> tuple[Any, Tensor]:
    """Return the output before pooling, and the map (B, D, h, w) of the last layer or of some layers, of one pass.

    Several maps are resized to the largest of them, and their channels concatenated.

    Args:
        layers: stages or blocks, indices of timm's `forward_intermediates`; empty for the last map before pooling.

    Raises:
        InvalidValue: the network does not have a map, or not these layers.
    """
    if not layers:
        features = network.forward_features(images)
        return features, map_of(network, features)
    if not hasattr(network, "forward_intermediates"):
        raise InvalidValue(tuple(layers), f"{type(network).__name__} gives only its last map; leave it out")
    try:
        # Some of timm's networks otherwise stop after the map, and return its features.
        options: dict[str, Any] = {"output_fmt": "NCHW", "stop_early": False}
        features, maps = network.forward_intermediates(images, indices=list(layers), **options)
    except (AssertionError, IndexError) as error:  # timm's check of the indices.
        raise InvalidValue(tuple(layers), f"not a stage of {type(network).__name__} ({error})") from error
    largest = max((feature_map.shape[2:] for feature_map in maps), key=prod)
    resized = (F.interpolate(one, largest, mode="bilinear", align_corners=False) for one in maps)
    return features, maps[0] if len(maps) == 1 else torch.cat(list(resized), 1)


def map_of(network: nn.Module, features: Tensor) -> Tensor:
    """Return the map (B, D, h, w) of a network's output before pooling: a map, or tokens in rows.

    Prefix tokens (class, registers) are left out.

    Args:
        features: (B, D, h, w), channels last if the network says so, or tokens (B, N, D).

    Raises:
        InvalidValue: the features are not a map, and their tokens are not a grid.
    """
    name = type(network).__name__
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        raise InvalidValue(name, "it gives one feature per image and no map; choose another network")
    if features.dim() == 4:
        return features.permute(0, 3, 1, 2) if getattr(network, "output_fmt", "NCHW") == "NHWC" else features
    tokens = features[:, getattr(network, "num_prefix_tokens", 0) :]
    count = tokens.shape[1]
    # timm states the grid of transformers for images that are not square.
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None) or ()
    if not grid or prod(grid) != count:
        grid = isqrt(count), isqrt(count)
    if prod(grid) != count:
        raise InvalidValue(name, f"its {count} tokens are not a square grid; choose another network")
    return tokens.mT.unflatten(2, grid)


def on_grid(feature_map: Tensor, grid: int) -> Tensor:
    """Return a map (B, D, h, w) on a g x g grid: the mean over each cell, or bilinear values if the map is smaller."""
    if feature_map.shape[2] < grid or feature_map.shape[3] < grid:
        return F.interpolate(feature_map, (grid, grid), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(feature_map, grid)


def how_pooled(side: tuple[int, ...], grid: int) -> str:
    """Describe `on_grid` for the plan."""
    size = "x".join(map(str, side))
    if min(side) < grid:
        return f"{size} resized to {grid}x{grid}"
    return f"{size}" if side == (grid, grid) else f"{size} pooled to {grid}x{grid}"
