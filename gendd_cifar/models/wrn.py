"""Wide ResNets (Zagoruyko & Komodakis, "Wide Residual Networks", arXiv 1605.07146), without dropout."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from .base import CifarNet, conv1x1, conv3x3, init_convolutions


class PreActivationBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = conv3x3(in_width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.convShortcut = None if in_width == width else conv1x1(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        x = F.relu(self.bn2(self.conv1(activated)))
        return self.conv2(x) + shortcut


class WideResNet(CifarNet):
    """Wide ResNet of `depth` = 6n + 4: three stages of n pre-activation blocks, `widen` times as wide as a ResNet's."""

    classifier_bias = 0.0

    def __init__(self, depth: int, widen: int, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv3x3(in_chans, 16)
        self.block1 = make_stage(blocks, 16, 16 * widen, stride=1)
        self.block2 = make_stage(blocks, 16 * widen, 32 * widen, stride=2)
        self.block3 = make_stage(blocks, 32 * widen, 64 * widen, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        init_convolutions(self)
        self.add_head(64 * widen, num_classes, global_pool)

    def stem(self, x: Tensor) -> Tensor:
        return self.conv1(x)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.block1, self.block2, self.block3

    def tail(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(x))


def make_stage(blocks: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_width, width, stride)
    rest = (PreActivationBlock(width, width, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *rest)))
