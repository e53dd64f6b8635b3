"""Base class of the CIFAR zoo's networks, with timm's model interface."""

from collections.abc import Iterable

import torch.nn.functional as F
from timm.layers import create_classifier, get_device_dtype
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class CifarNet(nn.Module):
    """Base of the zoo: stem, stages, tail, global pooling, linear classifier.

    A subclass builds its layers, calls `add_head` last, and returns its stages from `stages`. The default stem is
    `conv1`, `bn1` and ReLU; the default tail is the identity. Layers have RepDistiller's names
    (github.com/HobbitLong/RepDistiller), so its checkpoints load strictly. The classifier's name therefore varies.
    """

    first_conv = "conv1"
    classifier_name = "fc"
    # None keeps PyTorch's initialization of the classifier.
    classifier_std: float | None = None
    classifier_bias: float | None = None
    grad_checkpointing = False

    def add_head(self, num_features: int, num_classes: int, global_pool: str) -> None:
        """Create the pooling and the classifier for feature maps with `num_features` channels."""
        self.num_features = self.head_hidden_size = num_features
        self._pool_type = global_pool
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Create a new classifier, or an identity if `num_classes` is 0, and optionally change the pooling."""
        self.num_classes = num_classes
        if global_pool is not None:
            self._pool_type = global_pool
        self.global_pool, classifier = create_classifier(
            self.num_features, num_classes, pool_type=self._pool_type, **get_device_dtype(self)
        )
        if self.classifier_std is not None and num_classes > 0:
            nn.init.normal_(classifier.weight, std=self.classifier_std)
        if self.classifier_bias is not None and num_classes > 0:
            nn.init.constant_(classifier.bias, self.classifier_bias)
        self.set_submodule(self.classifier_name, classifier)

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.classifier_name)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages in the backward pass.

        BatchNorm then sees each batch twice; `gendd.networks.create.recompute_activations` counts it once.
        """
        self.grad_checkpointing = enable

    def stem(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv1(x)))

    def stages(self) -> Iterable[nn.Module]:
        raise NotImplementedError

    def tail(self, x: Tensor) -> Tensor:
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) to the feature map (B, num_features, H', W')."""
        x = self.stem(x)
        for stage in self.stages():
            x = checkpoint(stage, x, use_reentrant=False) if self.grad_checkpointing else stage(x)
        return self.tail(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the feature map to logits (B, num_classes), or to pooled features (B, num_features) if `pre_logits`."""
        x = self.global_pool(x)
        return x if pre_logits else self.get_classifier()(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def init_convolutions(network: nn.Module) -> None:
    """Apply He initialization (fan out) and zero biases to the convolutions."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def conv1x1(in_width: int, out_width: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, kernel_size=1, stride=stride, groups=groups, bias=False)


def conv3x3(in_width: int, out_width: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, out_width, kernel_size=3, stride=stride, padding=1, groups=groups, bias=False)


def projection(in_width: int, out_width: int, stride: int) -> nn.Sequential | None:
    """Create the shortcut of a residual block that changes the shape; return None for one that keeps it."""
    if stride == 1 and in_width == out_width:
        return None
    return nn.Sequential(conv1x1(in_width, out_width, stride), nn.BatchNorm2d(out_width))
