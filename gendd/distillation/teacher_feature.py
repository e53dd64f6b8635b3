"""The teacher feature that the student learns, by the names of --teacher-feature.

auto           the projection if timm publishes the network with one; otherwise the pooled feature.
pooled         the input of the network's classifier; for other libraries, the feature that they pool.
class-token    the first token of a transformer.
patch-mean     the mean over all positions of the last feature map; without a transformer's class and register tokens.
projection     the output of the network's last layer, for example in CLIP.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gendd.core.distributed import autocast
from gendd.core.errors import InvalidValue
from gendd.networks.external import Output
from gendd.networks.feature_map import map_of

Kind = Literal["auto", "pooled", "class-token", "patch-mean", "projection"]


# Class counts of published networks that `infer_imagenet_subset` does not know: ImageNet-21k (winter 2021) and Bamboo.
OTHER_CLASSES = (19168, 115217)


def projection_width(cfg: Mapping[str, Any]) -> int:
    """Return the width of the projection in a network that timm publishes; 0 if its last layer is a classifier.

    timm states both as `num_classes`. It is the width of a projection if no known data set has this number of classes.
    """
    import timm

    width = cfg.get("num_classes") or 0
    published = timm.models.get_arch_pretrained_cfgs(str(cfg.get("architecture", ""))).values()
    if width not in {other.num_classes for other in published if other.hf_hub_id}:
        return 0
    return 0 if timm.data.infer_imagenet_subset({"num_classes": width}) or width in OTHER_CLASSES else width


def usual(network: nn.Module) -> Kind:
    """Return the kind that "auto" selects for a network."""
    width, last = projection_width(network.pretrained_cfg), network.get_classifier()
    return "projection" if width and isinstance(last, nn.Linear) and last.out_features == width else "pooled"


def describe(network: nn.Module, kind: Kind) -> str:
    """Return the kind and, for the pooled feature, the name that the network's library gives it."""
    name = getattr(network, "feature_name", None)
    return f"{kind} ({name})" if name and kind == "pooled" else kind


def take(network: nn.Module, images: Tensor, kind: Kind) -> Tensor:
    """Return the feature (B, D_t) of images (B, 3, H, W); see `select`."""
    return select(network, network.forward_features(images), kind)


def select(network: nn.Module, features: Any, kind: Kind) -> Tensor:
    """Return the feature (B, D_t) from the output of the network's `forward_features`.

    Raises:
        InvalidValue: the network does not give patches, and `kind` needs them.
    """
    if kind in ("pooled", "projection"):
        return network.forward_head(features, pre_logits=kind == "pooled")
    places = places_of(features)
    if not isinstance(places, Tensor):
        raise InvalidValue(kind, "the network gives no patches; choose pooled")
    if kind == "class-token":
        return places[:, 0]
    if places.dim() == 3 and hasattr(network, "num_prefix_tokens"):
        return places[:, network.num_prefix_tokens :].mean(1)
    return map_of(network, places).mean((2, 3))


def places_of(features: Any) -> Tensor | None:
    """Return the tokens or the feature map before pooling; None if another library's network gives neither."""
    return features.places if isinstance(features, Output) else features


def _has_class_token(network: nn.Module) -> bool:
    """Return whether the first token is a class token. timm counts registers as prefix tokens too."""
    stated = getattr(network, "has_class_token", getattr(network, "cls_token", True) is not None)
    return stated and getattr(network, "num_prefix_tokens", 0) > 0


def width_of(network: nn.Module, kind: Kind, image_size: int) -> int:
    """Return the width D_t of a network's feature.

    Raises:
        InvalidValue: the network does not have this kind of feature.
    """
    if kind == "class-token" and not _has_class_token(network):
        raise InvalidValue(kind, "the network has no class token; choose pooled or patch-mean")
    if kind == "projection" and not isinstance(network.get_classifier(), nn.Linear):
        raise InvalidValue(kind, "the network's last layer is not a projection; choose pooled")
    with next(network.parameters()).device, torch.no_grad():
        feature = take(network.eval(), torch.zeros(1, 3, image_size, image_size), kind)
    if feature.dim() != 2:
        raise InvalidValue(kind, f"has shape {tuple(feature.shape[1:])}, not one vector per image; choose another")
    return feature.shape[1]


# By precision, relative to the feature's greatest value: the rounding of one image alone and of a batch differs.
TOLERANCE = {"fp32": 1e-2, "bf16": 5e-2}


@torch.no_grad()
def check_repeats(name: str, network: nn.Module, kind: Kind, image_size: int, precision: str = "fp32") -> None:
    """Check that a network's feature depends on its image, and not on chance or on other images of the batch.

    Args:
        precision: "bf16" or "fp32", in which the network is used.

    Raises:
        InvalidValue: it does not, or it is not finite.
    """
    device = next(network.parameters()).device
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    with autocast(precision, device):
        first = take(network.eval(), images, kind).float()
        second = torch.cat([take(network, image, kind).float() for image in images.split(1)])
    if not (first.isfinite().all() and second.isfinite().all()):
        raise InvalidValue(
            name, "its feature of two random images is not finite; choose another network or other weights"
        )
    if torch.equal(first[0], first[1]):
        raise InvalidValue(name, "its feature is the same for every image; choose another network or other weights")
    if (first - second).abs().max() > TOLERANCE[precision] * first.abs().max():
        raise InvalidValue(
            name,
            "two passes over the same images differ, in evaluation mode too: it masks at random, keeps its "
            "dropout, or compares images of a batch; switch that off, or choose another network",
        )
