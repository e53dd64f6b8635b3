"""A folder of images with masks: images/NAME.jpg (any format) and masks/NAME.png."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gendd.core.errors import InvalidValue
from gendd.data.decode import ENDINGS, BrokenImage, as_rgb, opened

FEWEST = 5


class MaskedImages:
    """Pairs of an image and a mask, in the order of their names, resized to squares.

    A mask's gray values, its palette's indices or its bits are classes; 255 marks pixels without a class.

    Attributes:
        classes: the values in all masks, in increasing order.

    Raises:
        InvalidValue: a folder, an image's mask or a second class is missing, or a mask does not fit its image.
    """

    def __init__(self, folder: str | Path, ignored: int = 255):
        self.folder, self.ignored = Path(folder), ignored
        for name in ("images", "masks"):
            if not (self.folder / name).is_dir():
                raise InvalidValue(folder, f"has no folder {name}/; give images/NAME.jpg and masks/NAME.png")
        self.images = sorted(path for path in (self.folder / "images").iterdir() if path.suffix.lower() in ENDINGS)
        if len(self.images) < FEWEST:
            raise InvalidValue(folder, f"{len(self.images)} images in images/; give at least {FEWEST}")
        values = {int(value) for path in self.images for value in np.unique(self._mask(path))}
        self.classes = sorted(values - {ignored})
        if len(self.classes) < 2:
            raise InvalidValue(folder, f"the masks have the values {sorted(values)}; give at least two classes")

    def _mask(self, image: Path) -> np.ndarray:
        path = self.folder / "masks" / f"{image.stem}.png"
        if not path.is_file():
            raise InvalidValue(self.folder, f"{image.name} has no mask; add {path}")
        try:
            with opened(path.read_bytes()) as mask, opened(image.read_bytes()) as own:
                values, mode, size = np.asarray(mask), mask.mode, own.size
        except BrokenImage as error:
            raise InvalidValue(self.folder, f"{path.name} or its image is broken: {error}") from error
        if mode not in ("1", "L", "P"):
            raise InvalidValue(self.folder, f"{path.name} has mode {mode}; save 8-bit gray values")
        if values.shape[::-1] != size:
            raise InvalidValue(self.folder, f"{path.name} has {values.shape[::-1]} pixels, its image {size}")
        return values.astype(np.uint8)

    def load(self, index: int, size: int) -> tuple[Tensor, Tensor]:
        """Return an image (3, S, S), uint8, and its mask (S, S) of class indices, uint8."""
        path = self.images[index]
        with opened(path.read_bytes()) as image:
            pixels = np.asarray(as_rgb(image).resize((size, size), Image.Resampling.BILINEAR))
        mask = Image.fromarray(self._mask(path)).resize((size, size), Image.Resampling.NEAREST)
        values = np.asarray(mask)
        indices = np.searchsorted(self.classes, values).clip(max=len(self.classes) - 1)
        found = np.where(values == self.ignored, self.ignored, indices)
        return torch.tensor(pixels).permute(2, 0, 1), torch.tensor(found.astype(np.uint8))
