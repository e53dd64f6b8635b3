"""Teachers and students on 32x32 images: CIFAR-10/100, the built-in digits, any folder of small images."""

from gendd_cifar import models  # noqa: F401  (registers the zoo with timm)
