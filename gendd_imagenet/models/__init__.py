"""The networks of the paper's ImageNet pairs by short name. Importing it registers MobileNetV1 with timm."""

import gendd  # noqa: F401  (makes torchvision, which timm needs, importable)

from .zoo import ZOO

__all__ = ["ZOO"]
