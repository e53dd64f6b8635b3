"""Measurement of the normalization in an image processor of transformers, with images of one color.

The settings of a processor have many names (do_rescale, rescale_factor, do_flip_channel_order, ...). Its output shows
their joint effect: a factor and an offset per channel, and the order of the channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gendd.core.errors import InvalidValue

GRAY = 128
COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (GRAY, GRAY, GRAY))


@dataclass(frozen=True)
class Normalization:
    """The normalization of a network's input images.

    Args:
        mean, std: of red, green and blue, in [0, 1] units.
        source: where they are stated, for the plan.
        blue_first: whether the channels are blue, green, red.
        side: side of the processor's output images in pixels, if they are square.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    blue_first: bool = False
    side: int | None = None


def measure(name: str, processor: Any) -> Normalization:
    """Return the normalization of a processor.

    Raises:
        InvalidValue: it does not subtract a mean and divide by a deviation per channel.
    """
    images = [Image.new("RGB", (64, 64), color) for color in COLORS]
    pixels = torch.as_tensor(processor(images=images, return_tensors="pt")["pixel_values"]).double()
    if pixels.dim() != 4 or pixels.shape[:2] != (len(COLORS), 3):
        raise InvalidValue(
            name, f"its processor makes inputs of shape {tuple(pixels.shape[1:])}, not images; choose another"
        )
    height, width = pixels.shape[2:]
    black, *primaries, gray = pixels[:, :, height // 2, width // 2]
    gain = torch.stack(primaries) - black  # (color, channel)
    blue_first = bool(gain[0].abs().argmax() == 2)
    if blue_first:
        black, gain, gray = black.flip(0), gain.flip(1), gray.flip(0)
    std = 1 / gain.diag()
    mean = -black * std
    fits = torch.allclose(gain, gain.diag().diag(), atol=1e-4) and torch.allclose(
        gray, (GRAY / 255 - mean) / std, atol=1e-2, rtol=1e-2
    )
    if not fits:
        raise InvalidValue(
            name, "its processor does more than subtract a mean and divide by a deviation; choose another"
        )
    source = "its processor's" + (", channels in the order blue, green, red" if blue_first else "")
    return Normalization(_plain(mean), _plain(std), source, blue_first, height if height == width else None)


def _plain(values: Tensor) -> tuple[float, ...]:
    """Round the values to six digits, to remove the noise of single precision."""
    return tuple(0.0 if abs(value) < 1e-6 else float(f"{value:.6g}") for value in values.tolist())
