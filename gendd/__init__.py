"""Generative Distribution Distillation: the method and its machinery, written once for both trees of data sets."""

from gendd import torchvision_import  # noqa: F401  (before anything that imports timm or torchvision)
