"""ResNet-50 with a stem for 32x32 images (He et al., arXiv 1512.03385): a 3x3 convolution, and no max pooling."""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import CifarNet, conv1x1, conv3x3, init_convolutions, projection

EXPANSION = 4


class Bottleneck(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.conv1 = conv1x1(in_width, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, EXPANSION * width)
        self.bn3 = nn.BatchNorm2d(EXPANSION * width)
        self.shortcut = projection(in_width, EXPANSION * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(CifarNet):
    classifier_name = "linear"

    def __init__(self, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"):
        super().__init__()
        self.conv1 = conv3x3(in_chans, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = make_stage(3, 64, 64, stride=1)
        self.layer2 = make_stage(4, 256, 128, stride=2)
        self.layer3 = make_stage(6, 512, 256, stride=2)
        self.layer4 = make_stage(3, 1024, 512, stride=2)
        init_convolutions(self)
        self.add_head(2048, num_classes, global_pool)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4


def make_stage(blocks: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        Bottleneck(in_width, width, stride),
        *(Bottleneck(EXPANSION * width, width, stride=1) for _ in range(blocks - 1)),
    )
