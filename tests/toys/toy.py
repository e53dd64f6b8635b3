"""A network for tests: small, and without any layer that mixes images."""

import torch
from torch import Tensor, nn


class ToyNetwork(nn.Module):
    """Small network with timm's interface and feature width 64."""

    num_features = 64

    def __init__(self, num_classes: int):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 5, stride=4, padding=2)
        self.classifier = nn.Linear(64, num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        return torch.relu(self.convolution(images))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(features, 4).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Linear:
        return self.classifier


def network(num_classes: int) -> ToyNetwork:
    return ToyNetwork(num_classes)


bias = 0.0


def own(num_classes: int) -> ToyNetwork:
    """Create a network with weights that depend on `bias` and not on the seed."""
    created = ToyNetwork(num_classes)
    with torch.no_grad():
        for parameter in created.parameters():
            parameter.copy_(bias + torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    return created


class WideNetwork(ToyNetwork):
    """A network with feature width 100, and a normalization that differs from all others."""

    num_features = 100

    def __init__(self, num_classes: int):
        super().__init__(num_classes)
        self.classifier = nn.Linear(100, num_classes) if num_classes else nn.Identity()
        self.pretrained_cfg = {"mean": (0.3, 0.2, 0.1), "std": (0.5, 0.4, 0.3), "input_size": (3, 48, 48)}

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = scale * nn.functional.adaptive_avg_pool2d(features, 5).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)


scale = 1.0


def wide(num_classes: int) -> WideNetwork:
    """Create a wide network with weights that depend neither on the seed nor on what was created before."""
    created, noise = WideNetwork(num_classes), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in created.parameters():
            parameter.copy_(bias + torch.randn(parameter.shape, generator=noise))
    return created
