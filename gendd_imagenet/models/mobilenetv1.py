"""MobileNetV1 (Howard et al., arXiv 1704.04861) as in distillation papers: timm's, with ReLU instead of ReLU6."""

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models.efficientnet import EfficientNet, mobilenetv1_100
from torch import nn

NAME = "imagenet_mobilenetv1"
# timm's `register_model` looks for this name in the module of the function it registers.
default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        }
    }
)


@register_model
def imagenet_mobilenetv1(pretrained: bool = False, pretrained_cfg=None, **kwargs) -> EfficientNet:
    pretrained_cfg = resolve_pretrained_cfg(NAME, pretrained_cfg)
    network = mobilenetv1_100(pretrained, pretrained_cfg=pretrained_cfg, act_layer="relu", **kwargs)
    if not pretrained:
        # The published runs use torch's initialization, not timm's.
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    network.published_names = published_names(network)
    return network


def published_names(network: EfficientNet) -> dict[str, str]:
    """Map module names of the published network (RepDistiller, mdistiller), one Sequential, to timm's names."""
    names = {"model.0.0": "conv_stem", "model.0.1": "bn1"}
    blocks = [f"blocks.{stage}.{block}" for stage, blocks in enumerate(network.blocks) for block in range(len(blocks))]
    for number, block in enumerate(blocks, start=1):
        for published, name in (("0", "conv_dw"), ("1", "bn1"), ("3", "conv_pw"), ("4", "bn2")):
            names[f"model.{number}.{published}"] = f"{block}.{name}"
    return names
