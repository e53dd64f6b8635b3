"""ShuffleNet (Zhang et al., arXiv 1707.01083) for 32x32 images: 3 groups, a 1x1 stem that keeps the resolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import CifarNet, conv1x1, conv3x3

GROUPS = 3
STEM_WIDTH = 24


class ShuffleUnit(nn.Module):
    """ShuffleNet unit. With stride 2 its output is the branch concatenated with the pooled input, `width` in all."""

    def __init__(self, in_width: int, width: int, stride: int, first_groups: int = GROUPS):
        super().__init__()
        branch_width = width - in_width if stride == 2 else width
        hidden = branch_width // 4
        self.first_groups = first_groups
        self.stride = stride
        self.conv1 = conv1x1(in_width, hidden, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = conv3x3(hidden, hidden, stride, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = conv1x1(hidden, branch_width, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(branch_width)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.channel_shuffle(branch, self.first_groups)
        # RepDistiller adds a ReLU after the depthwise convolution; the paper does not.
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        if self.stride == 1:
            return F.relu(branch + x)
        return F.relu(torch.cat([branch, F.avg_pool2d(x, kernel_size=3, stride=2, padding=1)], dim=1))


class ShuffleV1(CifarNet):
    """ShuffleNet v1. Convolutions keep PyTorch's initialization, as in RepDistiller."""

    classifier_name = "linear"

    def __init__(self, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"):
        super().__init__()
        self.conv1 = conv1x1(in_chans, STEM_WIDTH)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        # The stem is too narrow to split into groups.
        self.layer1 = make_stage(4, STEM_WIDTH, 240, first_groups=1)
        self.layer2 = make_stage(8, 240, 480)
        self.layer3 = make_stage(4, 480, 960)
        self.add_head(960, num_classes, global_pool)

    def stages(self) -> tuple[nn.Module, ...]:
        return self.layer1, self.layer2, self.layer3


def make_stage(units: int, in_width: int, width: int, first_groups: int = GROUPS) -> nn.Sequential:
    first = ShuffleUnit(in_width, width, stride=2, first_groups=first_groups)
    return nn.Sequential(first, *(ShuffleUnit(width, width, stride=1) for _ in range(units - 1)))
