"""Networks in place of a teacher, for a student that is used without it.

A configuration names one `gendd.networks.stand_in:width_512`. It has a feature of this width, and a classifier if there
are classes, so that a student's head and classifier get their sizes. Its weights are random.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

PREFIX = "width_"


class StandIn(nn.Module):
    """A linear map of an image's mean color, with timm's interface."""

    def __init__(self, width: int, num_classes: int):
        super().__init__()
        self.num_features = width
        self.feature = nn.Linear(3, width)
        self.classifier = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        return self.feature(images.mean((2, 3)))

    def forward_head(self, feature: Tensor, pre_logits: bool = False) -> Tensor:
        return feature if pre_logits else self.classifier(feature)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        return self.classifier


def named(width: int) -> str:
    """Return the name of a stand-in with a feature of this width, for a configuration."""
    return f"{__name__}:{PREFIX}{width}"


def __getattr__(name: str) -> Callable[..., nn.Module]:
    width = name.removeprefix(PREFIX)
    if not (name.startswith(PREFIX) and width.isdecimal()):
        raise AttributeError(f"{name}: unknown; give a width, such as {PREFIX}512")
    return partial(StandIn, int(width))
