"""MobileNetV2 (Sandler et al., arXiv 1801.04381) for 32x32 images, as in RepDistiller: half width, ReLU for ReLU6."""

from torch import Tensor, nn

from .base import CifarNet, conv1x1, conv3x3, init_convolutions

EXPANSION = 6
LAST_WIDTH = 1280  # not scaled by `width_factor`
STAGES = (  # expansion, width before scaling, blocks, stride of the first
    (1, 16, 1, 1),
    (EXPANSION, 24, 2, 1),
    (EXPANSION, 32, 3, 2),
    (EXPANSION, 64, 4, 2),
    (EXPANSION, 96, 3, 1),
    (EXPANSION, 160, 3, 2),
    (EXPANSION, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    def __init__(self, in_width: int, width: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * in_width
        self.conv = nn.Sequential(
            *conv_bn_relu(conv1x1(in_width, hidden)),
            *conv_bn_relu(conv3x3(hidden, hidden, stride, groups=hidden)),
            conv1x1(hidden, width),
            nn.BatchNorm2d(width),
        )
        self.has_shortcut = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(CifarNet):
    first_conv = "conv1.0"
    classifier_name = "classifier.0"
    classifier_std = 0.01
    classifier_bias = 0.0

    def __init__(self, width_factor: float = 0.5, num_classes: int = 100, in_chans: int = 3, global_pool: str = "avg"):
        super().__init__()
        width = int(32 * width_factor)
        self.conv1 = conv_bn_relu(conv3x3(in_chans, width, stride=2))
        self.blocks = nn.ModuleList()
        for expansion, full_width, blocks, stride in STAGES:
            in_width, width = width, int(full_width * width_factor)
            first = InvertedResidual(in_width, width, stride, expansion)
            rest = (InvertedResidual(width, width, 1, expansion) for _ in range(blocks - 1))
            self.blocks.append(nn.Sequential(first, *rest))
        self.conv2 = conv_bn_relu(conv1x1(width, LAST_WIDTH))
        init_convolutions(self)
        self.classifier = nn.Sequential()
        self.add_head(LAST_WIDTH, num_classes, global_pool)

    def stem(self, x: Tensor) -> Tensor:
        return self.conv1(x)

    def stages(self) -> nn.ModuleList:
        return self.blocks

    def tail(self, x: Tensor) -> Tensor:
        return self.conv2(x)


def conv_bn_relu(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))
