"""The preprocessing of images for a network, in timm's terms."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn

from gendd.config import Data
from gendd.core.errors import UserError
from gendd.data.decode import as_rgb, opened

# Share of the range of normalized images by which images may exceed it, as bicubic resizing of numbers does.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Preprocessing:
    """Convert images to a network's input: resize, center crop, and normalize.

    Args:
        image_size: side S of the input, in pixels.
        mean, std: of red, green and blue, in [0, 1] units.
        interpolation, crop_pct, crop_mode: geometry, with timm's names; None if unknown, for batches that were given.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None

    @classmethod
    def of(cls, network: nn.Module, data: Data) -> "Preprocessing":
        """Return the evaluation's preprocessing for a network that states its normalization."""
        cfg = network.pretrained_cfg
        return cls(data.image_size, tuple(cfg["mean"]), tuple(cfg["std"]), **data.geometry)

    @property
    def timm(self) -> dict[str, Any]:
        """The same as timm's data configuration, the arguments of `timm.data.create_transform`."""
        own = {name: value for name, value in asdict(self).items() if name != "image_size" and value is not None}
        return {"input_size": (3, self.image_size, self.image_size), **own}

    @cached_property
    def _transform(self) -> Any:
        return timm.data.create_transform(**self.timm)

    def __call__(self, images: Image.Image | str | Path | Sequence[Image.Image | str | Path]) -> Tensor:
        """Return the input (B, 3, S, S), float32, for images or paths of image files; for a single one, B is 1.

        Raises:
            UserError: the geometry is unknown.
            BrokenImage: a file does not hold a readable image.
            OSError: a file cannot be opened.
        """
        if self.interpolation is None:
            raise UserError("the run was trained on given batches; preprocess its images as they were")
        several = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
        return torch.stack([self._transform(_pixels(image)) for image in several])

    def doubt(self, low: float, high: float) -> str:
        """Return why images with values from `low` to `high` may lack this normalization; "" without a doubt."""
        channels = list(zip(self.mean, self.std, strict=True))
        black = min(-mean / std for mean, std in channels)
        white = max((1 - mean) / std for mean, std in channels)
        slack = TOLERANCE * (white - black)
        outside = low < black - slack or high > white + slack
        # Other usual ranges, [0, 1] and [-1, 1], may lie within this one.
        other = low >= 0 > black + slack or ((low, high) == (-1, 1) and black < -1 - slack)
        if not outside and not other:
            return ""
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return (
            f"{low:.3g} to {high:.3g}, but images normalized with mean {mean} and std {std} have {black:.3g} to "
            f"{white:.3g}; check their normalization"
        )


def _pixels(image: Image.Image | str | Path) -> Image.Image:
    if isinstance(image, Image.Image):
        return as_rgb(image)
    with opened(Path(image).read_bytes()) as found:
        return as_rgb(found).copy()
