"""One photograph: the bytes of a file to the pixels that training or evaluation sees.

Pillow decodes; torchvision resizes on uint8 tensors, which computes what Pillow's resize does, several times as fast.
"""

import contextlib
import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from timm.data.transforms import str_to_interp_mode
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torchvision.transforms import ColorJitter, Compose
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize, to_pil_image

from gendd.config import Config
from gendd.core.errors import InvalidSetting
from gendd.core.seeding import generator
from gendd.data.decode import BrokenImage, as_rgb, opened
from gendd_imagenet.config import Photographs


@contextlib.contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Python's, NumPy's and torch's own generators, which timm's transforms draw from, seeded by the key.

    Dropout draws from torch's too, where the training process itself decodes: it is left as it was found.
    """
    seed = generator("cpu", *key).initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which takes 0.1 ms.
        torch.default_generator.manual_seed(seed)
        yield


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
                f"timm knows no such policy ({error}); give one like rand-m7-n2-mstd0.5",
            ) from error
        self.crop, *flip = first.transforms
        # Not timm's: it leaves the jitter out beside a policy, or, if forced, puts it last.
        jitter = [ColorJitter(*[config.data.color_jitter] * 3)] if config.data.color_jitter else []
        colors = [*jitter, *second.transforms]
        self.augment = Compose([*flip, to_pil_image, *colors, pil_to_tensor] if colors else flip)
        self.image_size = config.data.image_size

    def __call__(self, content: bytes, *key: int | str) -> Tensor:
        """A view (3, S, S) uint8, in channels-last order; the key decides which.

        Raises:
            BrokenImage: the bytes are not one whole image.
        """
        with seeded(*key):
            with opened(content) as image:
                top, left, height, width = self.crop.get_params(image, self.crop.scale, self.crop.ratio)
                if not height or not width:
                    raise BrokenImage(f"{image.width} x {image.height} pixels, too few for a crop")
                # A JPEG decoder saves time by shrinking. The crop keeps at least twice the pixels a side that it needs.
                shrink = max((s for s in (2, 4, 8) if min(height, width) >= 2 * s * self.image_size), default=1)
                if not image.draft(None, (image.width // shrink, image.height // shrink)):
                    shrink = 1
                box = [round(side / shrink) for side in (left, top, left + width, top + height)]
                pixels = pil_to_tensor(as_rgb(image).crop(box))
            return self.augment(resize(pixels, [self.image_size] * 2, self.crop.interpolation))


class EvalView:
    """The center of a photograph: S x S pixels, after its shorter side was resized to S / crop_pct."""

    def __init__(self, image_size: int, crop_pct: float, interpolation: str):
        self.image_size, self.shorter_side = image_size, math.floor(image_size / crop_pct)
        self.interpolation = str_to_interp_mode(interpolation)

    def __call__(self, content: bytes) -> Tensor:
        """The view (3, S, S) uint8, in channels-last order.

        Raises:
            BrokenImage: the bytes are not one whole image.
        """
        with opened(content) as image:
            pixels = pil_to_tensor(as_rgb(image))
        return center_crop(resize(pixels, [self.shorter_side], self.interpolation), [self.image_size])
