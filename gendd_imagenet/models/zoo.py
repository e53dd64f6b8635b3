"""Map short names of the paper's teachers and students to timm's names, whose tag names the published weights."""

from . import mobilenetv1

NETWORKS = {
    "resnet18": "resnet18.tv_in1k",
    "resnet34": "resnet34.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "mobilenetv1": mobilenetv1.NAME,
    "beitv2_base": "beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "beitv2_large": "beitv2_large_patch16_224.in1k_ft_in22k_in1k",
    # Teacher for ImageNet-LT. Train it on ImageNet-LT: timm's weights were trained on more images.
    "resnext101_32x4d": "resnext101_32x4d.gluon_in1k",
}
