"""Networks in place of a teacher, for a student that is used without it.

A configuration names one `gendd.networks.stand_in:width_512`, or `...:width_512_map_64` for a student with a dense
head. It has a feature and a map of these widths, and a classifier if there are classes, so that all parts of a student
get their sizes. Its weights are random.
"""

import re
from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from gendd.networks.external import Output

NAME = re.compile(r"width_(\d+)(?:_map_(\d+))?")


class StandIn(nn.Module):
    """Linear maps of an image's mean color, with timm's interface. The map has one pixel."""

    def __init__(self, width: int, map_width: int, num_classes: int):
        super().__init__()
        self.num_features = width
        self.feature, self.map = nn.Linear(3, width), nn.Linear(3, map_width) if map_width else None
        self.classifier = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Output:
        color = images.mean((2, 3))
        return Output(self.feature(color), self.map(color)[..., None, None] if self.map else None)

    def forward_head(self, output: Output, pre_logits: bool = False) -> Tensor:
        return output.feature if pre_logits else self.classifier(output.feature)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        return self.classifier


def named(width: int, map_width: int = 0) -> str:
    """Return the name of a stand-in with a feature and a map of these widths (0: no map), for a configuration."""
    return f"{__name__}:width_{width}" + (f"_map_{map_width}" if map_width else "")


def __getattr__(name: str) -> Callable[..., nn.Module]:
    found = NAME.fullmatch(name)
    if not found:
        raise AttributeError(f"{name}: unknown; give a width, such as width_512")
    return partial(StandIn, int(found[1]), int(found[2] or 0))
