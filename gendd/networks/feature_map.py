"""The feature map of a network with timm's interface, from its last layer or an earlier stage."""

from math import isqrt, prod

import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.errors import InvalidValue


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
    if prod(grid) != count:
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
