"""ResNets for 32x32 images with basic blocks (He et al., "Deep Residual Learning", arXiv 1512.03385, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import CifarNet, conv3x3, init_convolutions, projection


class BasicBlock(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(in_width, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(CifarNet):
    """ResNet of `depth` = 6n + 2: three stages of n basic blocks. `widths`: channels of the stem and each stage."""

    def __init__(
        self,
        depth: int,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ):
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = conv3x3(in_chans, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = make_stage(blocks, widths[0], widths[1], stride=1)
        self.layer2 = make_stage(blocks, widths[1], widths[2], stride=2)
        self.layer3 = make_stage(blocks, widths[2], widths[3], stride=2)
        init_convolutions(self)
        self.add_head(widths[3], num_classes, global_pool)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.layer1, self.layer2, self.layer3


def make_stage(blocks: int, in_width: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_width, width, stride), *(BasicBlock(width, width, stride=1) for _ in range(blocks - 1))
    )
