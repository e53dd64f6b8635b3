"""The networks of the paper's ImageNet pairs by short name. Importing this package registers MobileNetV1 with timm."""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import gendd  # noqa: F401  (makes torchvision, which timm needs, importable)
from gendd.networks.create import Zoo

from .zoo import NETWORKS

ZOO = Zoo(NETWORKS, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
