"""Convert the bytes of one photograph to the pixels for training or evaluation.

Pillow decodes. torchvision resizes uint8 tensors: the same result as Pillow's resize, several times as fast.
"""

import contextlib
import math
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from timm.data.transforms import str_to_interp_mode
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import ColorJitter, Compose
from torchvision.transforms.v2.functional import center_crop, hflip, pil_to_tensor, resize, to_pil_image

from gendd.config import Config
from gendd.core.errors import InvalidSetting
from gendd.core.seeding import generator
from gendd.data.decode import BrokenImage, as_rgb, opened
from gendd_imagenet.config import Photographs


@contextlib.contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch, which timm's transforms use, by the key.

    Torch's generator is restored afterwards, since dropout uses it too if the training process itself decodes.
    """
    seed = generator("cpu", *key).initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would take 0.1 ms.
        torch.default_generator.manual_seed(seed)
        yield


class Drawn(NamedTuple):
    """A random view of a photograph, and how it was drawn.

    Args:
        pixels: (3, S, S) uint8, in channels-last order.
        crop: top, left, height and width in pixels of the photograph.
        flipped: whether the view is mirrored.
    """

    pixels: Tensor
    crop: tuple[int, int, int, int]
    flipped: bool


class TrainView:
    """A random view of a photograph: timm's crop and flip, then color jitter, then a policy such as RandAugment."""

    def __init__(self, config: Config[Photographs]):
        try:
            first, second, _ = transforms_imagenet_train(
                config.data.image_size,
                scale=config.data.crop_scale,
                hflip=config.data.hflip,
                color_jitter=None,
                auto_augment=config.data.auto_augment,
                interpolation=config.data.interpolation,
                separate=True,
            )
        except (AssertionError, ValueError) as error:
            raise InvalidSetting(
                "auto_augment",
                config.data.auto_augment,
                f"timm does not know this policy ({error}); give one like rand-m7-n2-mstd0.5",
            ) from error
        self.crop, self.hflip = first.transforms[0], config.data.hflip
        # timm omits the jitter when there is a policy, or, if forced, applies it last.
        jitter = [ColorJitter(*[config.data.color_jitter] * 3)] if config.data.color_jitter else []
        colors = [*jitter, *second.transforms]
        self.augment = Compose([to_pil_image, *colors, pil_to_tensor] if colors else [])
        self.image_size = config.data.image_size

    def __call__(self, content: bytes, *key: int | str) -> Tensor:
        """Return the pixels of `draw`."""
        return self.draw(content, *key).pixels

    def draw(self, content: bytes, *key: int | str) -> Drawn:
        """Return the random view of this key.

        Raises:
            BrokenImage: the bytes are not one whole image.
        """
        with seeded(*key):
            with opened(content) as image:
                top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
                if not height or not width:
                    raise BrokenImage(f"{image.width} x {image.height} pixels, too few for a crop")
                # Decoding a JPEG at reduced size saves time. The crop keeps at least 2 S pixels per side.
                shrink = max((s for s in (2, 4, 8) if min(height, width) >= 2 * s * self.image_size), default=1)
                if not image.draft(None, (image.width // shrink, image.height // shrink)):
                    shrink = 1
                box = [round(side / shrink) for side in (left, top, left + width, top + height)]
                pixels = pil_to_tensor(as_rgb(image).crop(box))
            view = resize(pixels, [self.image_size] * 2, self.crop.interpolation)
            # The same draw as in torchvision's RandomHorizontalFlip.
            flipped = self.hflip > 0 and bool(torch.rand(1) < self.hflip)
            return Drawn(self.augment(hflip(view) if flipped else view), (top, left, height, width), flipped)


class EvalView:
    """Center view of a photograph: resize the shorter side to S / crop_pct, then crop S x S pixels."""

    def __init__(self, image_size: int, crop_pct: float, interpolation: str):
        self.image_size, self.shorter_side = image_size, math.floor(image_size / crop_pct)
        self.interpolation = str_to_interp_mode(interpolation)

    def __call__(self, content: bytes) -> Tensor:
        """Return the view (3, S, S) uint8, in channels-last order.

        Raises:
            BrokenImage: the bytes are not one whole image.
        """
        with opened(content) as image:
            pixels = pil_to_tensor(as_rgb(image))
        return center_crop(resize(pixels, [self.shorter_side], self.interpolation), [self.image_size])
