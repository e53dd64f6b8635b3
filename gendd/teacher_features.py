"""Which feature of a teacher the student learns, by the name of --teacher-feature.

auto           what the family is used by: the projection of CLIP's image towers, of other networks the pooled feature
pooled         as the network's own classifier sees it, whatever pooling it states
class-token    the first token of a transformer
patch-mean     mean over all places of the last feature map, of a transformer without its class and register tokens
projection     the output of the network's last layer, such as CLIP's
"""

from typing import Literal

import torch
from torch import Tensor, nn

from gendd.errors import Refusal
from gendd.networks import pooled_feature

Kind = Literal["auto", "pooled", "class-token", "patch-mean", "projection"]


def usual(network: nn.Module) -> Kind:
    """The kind that "auto" stands for."""
    names = str(network.pretrained_cfg.get("architecture", "")), str(network.pretrained_cfg.get("tag", ""))
    is_clip = any("clip" in name for name in names) and "siglip" not in names[0]
    return "projection" if is_clip and isinstance(network.get_classifier(), nn.Linear) else "pooled"


def take(network: nn.Module, images: Tensor, kind: Kind) -> Tensor:
    """The feature (B, D_t) of images (B, 3, H, W)."""
    if kind == "pooled":
        return pooled_feature(network, images)
    if kind == "projection":
        return network.forward_head(network.forward_features(images))
    places = network.forward_features(images)
    prefix = getattr(network, "num_prefix_tokens", 0)
    if kind == "class-token":
        return places[:, 0]
    if places.dim() == 3:
        return places[:, prefix:].mean(1)
    channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return places.mean((1, 2) if channels_last else (2, 3))


def width_of(network: nn.Module, kind: Kind, image_size: int) -> int:
    """D_t.

    Raises:
        Refusal: the network has no such feature.
    """
    if kind == "class-token" and not getattr(network, "num_prefix_tokens", 0):
        raise Refusal(f"{kind}: the network has no class token; choose pooled or patch-mean")
    if kind == "projection" and not isinstance(network.get_classifier(), nn.Linear):
        raise Refusal(f"{kind}: the network ends without one; choose pooled")
    device = next(network.parameters()).device
    with torch.no_grad():
        feature = take(network.eval(), torch.zeros(1, 3, image_size, image_size, device=device), kind)
    if feature.dim() != 2:
        raise Refusal(f"{kind}: is no vector but of shape {tuple(feature.shape[1:])}; choose another")
    return feature.shape[1]
