"""ShuffleNet V2, width 1x (Ma et al., arXiv 1807.11164) for 32x32 images: a 1x1 stem that keeps the resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CifarNet, conv1x1, conv3x3

STEM_WIDTH = 24
LAST_WIDTH = 1024


class SplitUnit(nn.Module):
    """ShuffleNet V2 unit: transforms the second half of the channels, then shuffles both halves."""

    def __init__(self, width: int):
        super().__init__()
        half = width // 2
        self.conv1 = conv1x1(half, half)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = conv3x3(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = conv1x1(half, half)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, branch = x.chunk(2, dim=1)
        branch = F.relu(self.bn1(self.conv1(branch)))
        branch = self.bn2(self.conv2(branch))
        branch = F.relu(self.bn3(self.conv3(branch)))
        return F.channel_shuffle(torch.cat([kept, branch], dim=1), 2)


class DownUnit(nn.Module):
    """ShuffleNet V2 unit that halves the resolution: two branches of `width` / 2 channels each."""

    def __init__(self, in_width: int, width: int):
        super().__init__()
        half = width // 2
        self.conv1 = conv3x3(in_width, in_width, stride=2, groups=in_width)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = conv1x1(in_width, half)
        self.bn2 = nn.BatchNorm2d(half)

        self.conv3 = conv1x1(in_width, half)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = conv3x3(half, half, stride=2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = conv1x1(half, half)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        short = self.bn1(self.conv1(x))
        short = F.relu(self.bn2(self.conv2(short)))
        long = F.relu(self.bn3(self.conv3(x)))
        long = self.bn4(self.conv4(long))
        long = F.relu(self.bn5(self.conv5(long)))
        return F.channel_shuffle(torch.cat([short, long], dim=1), 2)


class ShuffleV2(CifarNet):
    """ShuffleNet V2. Convolutions keep PyTorch's initialization, as in RepDistiller."""

    classifier_name = "linear"

    def __init__(self, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"):
        super().__init__()
        self.conv1 = conv1x1(in_chans, STEM_WIDTH)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.layer1 = make_stage(3, STEM_WIDTH, 116)
        self.layer2 = make_stage(7, 116, 232)
        self.layer3 = make_stage(3, 232, 464)
        self.conv2 = conv1x1(464, LAST_WIDTH)
        self.bn2 = nn.BatchNorm2d(LAST_WIDTH)
        self.add_head(LAST_WIDTH, num_classes, global_pool)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.layer1, self.layer2, self.layer3

    def tail(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(x)))


def make_stage(split_units: int, in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(in_width, width), *(SplitUnit(width) for _ in range(split_units)))
