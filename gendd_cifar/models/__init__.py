"""The CIFAR networks. Importing this package registers them with timm as `cifar_<name>`."""

import gendd  # noqa: F401  (makes torchvision, which timm needs, importable)
from gendd.networks.create import Zoo

from .zoo import CIFAR100_MEAN, CIFAR100_STD, NETWORKS

ZOO = Zoo(
    {name: f"cifar_{name}" for name in NETWORKS},
    CIFAR100_MEAN,
    CIFAR100_STD,
    small_stems=True,
    remedy="train `recipe` {name} trains it, and its run folder is then the value; in the repository, "
    "bash sh/fetch_pretrained_teachers.sh fetches it",
)
