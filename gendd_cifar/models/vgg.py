"""VGG with batch normalization and one linear layer (Simonyan & Zisserman, arXiv 1409.1556) for 32x32 images."""

from torch import Tensor, nn

from .base import CifarNet, init_convolutions

WIDTHS = (64, 128, 256, 512, 512)


class VGG(CifarNet):
    """VGG. `convolutions`: number in each of five blocks. Only the first three blocks halve the resolution: 32 -> 4."""

    first_conv = "block0.0"
    classifier_name = "classifier"
    classifier_std = 0.01
    classifier_bias = 0.0

    def __init__(
        self,
        convolutions: tuple[int, int, int, int, int],
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
    ):
        super().__init__()
        self.block0 = make_block(convolutions[0], in_chans, WIDTHS[0], pool=True)
        self.block1 = make_block(convolutions[1], WIDTHS[0], WIDTHS[1], pool=True)
        self.block2 = make_block(convolutions[2], WIDTHS[1], WIDTHS[2], pool=True)
        self.block3 = make_block(convolutions[3], WIDTHS[2], WIDTHS[3], pool=False)
        self.block4 = make_block(convolutions[4], WIDTHS[3], WIDTHS[4], pool=False)
        init_convolutions(self)
        self.add_head(WIDTHS[4], num_classes, global_pool)

    def stem(self, x: Tensor) -> Tensor:
        return x

    def stages(self) -> tuple[nn.Module, ...]:
        return self.block0, self.block1, self.block2, self.block3, self.block4


def make_block(convolutions: int, in_width: int, width: int, pool: bool) -> nn.Sequential:
    layers = []
    for index in range(convolutions):
        layers += [
            nn.Conv2d(width if index else in_width, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
