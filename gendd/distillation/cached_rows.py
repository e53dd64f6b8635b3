"""The format of a teacher cache: it stores a row of bytes per image and output of the teacher.

Shapes: n images, a map of L locations with D_m channels.
"""

from typing import Protocol

import torch
from torch import Tensor

LARGEST_INT8 = 127


class Rows(Protocol):
    """The format of the rows.

    Attributes:
        ending: ending of the files.
        row_bytes: bytes per image.
        scale_bytes: number of them that precede the numbers, as float16 scales.
    """

    ending: str
    row_bytes: int
    scale_bytes: int

    def encode(self, values: Tensor) -> Tensor:
        """Return the bytes (n, row_bytes), uint8, of values (n, width), float32."""

    def decode(self, stored: Tensor) -> Tensor:
        """Return the values (n, width), float32, of bytes (n, row_bytes). Values that do not fit are not finite."""


class Float16Rows:
    """Rows of float16."""

    ending, scale_bytes = "fp16", 0

    def __init__(self, width: int):
        self.row_bytes = 2 * width

    def encode(self, values: Tensor) -> Tensor:
        return values.half().contiguous().view(torch.uint8)

    def decode(self, stored: Tensor) -> Tensor:
        return stored.view(torch.float16).float()


class Int8Maps:
    """Maps in int8 with one float16 scale per image and channel, which precedes them.

    The values of a channel of a transformer's map can be a hundred times as large as another's, so channels do not
    share a scale.
    """

    ending = "int8"

    def __init__(self, locations: int, channels: int):
        self.shape, self.scale_bytes = (locations, channels), 2 * channels
        self.row_bytes = self.scale_bytes + locations * channels

    def encode(self, values: Tensor) -> Tensor:
        maps = values.unflatten(1, self.shape)
        scale = (maps.abs().amax(1, keepdim=True) / LARGEST_INT8).half()
        # A channel of zeros has the scale 0.
        numbers = (maps / scale.float()).nan_to_num(0).round().clamp(-LARGEST_INT8, LARGEST_INT8)
        return torch.cat([scale.flatten(1).view(torch.uint8), numbers.to(torch.int8).flatten(1).view(torch.uint8)], 1)

    def decode(self, stored: Tensor) -> Tensor:
        scale = stored[:, : self.scale_bytes].contiguous().view(torch.float16).float()
        numbers = stored[:, self.scale_bytes :].contiguous().view(torch.int8).unflatten(1, self.shape)
        return (numbers * scale[:, None]).flatten(1)
