"""Teachers and students on 224x224 images: ImageNet, ImageNet-LT, CC3M, any folder of images or shards."""

from gendd_imagenet import models  # noqa: F401  (registers its networks with timm)
