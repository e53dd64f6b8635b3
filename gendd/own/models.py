"""Networks for given batches: all of timm, without short names."""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import gendd  # noqa: F401  (makes torchvision, which timm needs, importable)
from gendd.networks.create import Zoo

ZOO = Zoo({}, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
