"""Table of the CIFAR zoo's networks, and their registration with timm as `cifar_<name>`."""

from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from .base import CifarNet
from .mobilenetv2 import MobileNetV2
from .resnet import ResNet
from .resnet50 import ResNet50
from .shufflenetv1 import ShuffleV1
from .shufflenetv2 import ShuffleV2
from .vgg import VGG
from .wrn import WideResNet

X4 = (32, 64, 128, 256)
NETWORKS: dict[str, tuple[type[CifarNet], dict[str, Any]]] = {
    "resnet8": (ResNet, {"depth": 8}),
    "resnet14": (ResNet, {"depth": 14}),
    "resnet20": (ResNet, {"depth": 20}),
    "resnet32": (ResNet, {"depth": 32}),
    "resnet44": (ResNet, {"depth": 44}),
    "resnet56": (ResNet, {"depth": 56}),
    "resnet110": (ResNet, {"depth": 110}),
    "resnet8x4": (ResNet, {"depth": 8, "widths": X4}),
    "resnet32x4": (ResNet, {"depth": 32, "widths": X4}),
    "wrn_16_1": (WideResNet, {"depth": 16, "widen": 1}),
    "wrn_16_2": (WideResNet, {"depth": 16, "widen": 2}),
    "wrn_40_1": (WideResNet, {"depth": 40, "widen": 1}),
    "wrn_40_2": (WideResNet, {"depth": 40, "widen": 2}),
    "vgg8": (VGG, {"convolutions": (1, 1, 1, 1, 1)}),
    "vgg11": (VGG, {"convolutions": (1, 1, 2, 2, 2)}),
    "vgg13": (VGG, {"convolutions": (2, 2, 2, 2, 2)}),
    "vgg16": (VGG, {"convolutions": (2, 2, 3, 3, 3)}),
    "vgg19": (VGG, {"convolutions": (2, 2, 4, 4, 4)}),
    "ResNet50": (ResNet50, {}),
    "MobileNetV2": (MobileNetV2, {}),
    "ShuffleV1": (ShuffleV1, {}),
    "ShuffleV2": (ShuffleV2, {}),
}
CIFAR100_MEAN = (0.5071, 0.4867, 0.4408)
CIFAR100_STD = (0.2675, 0.2565, 0.2761)


def default_cfg(network: type[CifarNet]) -> dict:
    """Return timm's default configuration of a network, for CIFAR-100, without a URL of weights."""
    return {
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "crop_pct": 1.0,
        "mean": CIFAR100_MEAN,
        "std": CIFAR100_STD,
        "first_conv": network.first_conv,
        "classifier": network.classifier_name,
    }


def entrypoint(name: str) -> Callable[..., CifarNet]:
    """Return the function that timm calls for `name`; timm reads its `__name__` and `__module__`."""
    network, architecture = NETWORKS[name]

    def create(pretrained: bool = False, **kwargs) -> CifarNet:
        return build_model_with_cfg(network, create.__name__, pretrained, **architecture, **kwargs)

    create.__name__ = create.__qualname__ = f"cifar_{name}"
    return create


# timm's `register_model` looks for this name, and for `__all__`, in the module of the function it registers.
default_cfgs = generate_default_cfgs({f"cifar_{name}": default_cfg(network) for name, (network, _) in NETWORKS.items()})
__all__ = ["CIFAR100_MEAN", "CIFAR100_STD", "NETWORKS"]
for _name in NETWORKS:
    register_model(entrypoint(_name))
