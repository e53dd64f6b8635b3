"""The CIFAR zoo. Importing it registers every network of `ZOO` with timm as `cifar_<name>`."""

import gendd  # noqa: F401  (makes torchvision, which timm needs, importable)

from .zoo import ZOO

__all__ = ["ZOO"]
