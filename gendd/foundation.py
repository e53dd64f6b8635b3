"""Teachers of other libraries behind timm's interface, by the name of --teacher. Each brings its own weights.

hub:OWNER/REPO:ENTRY      torch.hub; a folder in place of OWNER/REPO
transformers:ID           a vision model of Hugging Face's transformers, by its id on the hub, or a folder
open_clip:MODEL/TAG       the image tower of a CLIP model of open_clip; TAG may be a file

The libraries are imported when such a name is given, and not needed otherwise.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from gendd.errors import Refusal

PREFIXES = ("hub:", "transformers:", "open_clip:")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def is_foundation(name: str) -> bool:
    return name.startswith(PREFIXES)


class Foundation(nn.Module):
    """A network without a classifier.

    Args:
        places: images (B, 3, H, W) -> tokens (B, N, D), a map (B, D, H', W'), or the feature (B, D) itself.
        prefix: tokens before the patches; the first is the class token.
    """

    def __init__(self, network: nn.Module, places: Callable[[Tensor], Tensor], size: int, mean, std, prefix: int = 0):
        super().__init__()
        self.network, self._places, self.num_prefix_tokens = network, places, prefix
        self.pretrained_cfg = {"mean": tuple(mean), "std": tuple(std), "input_size": (3, size, size), "num_classes": 0}
        with torch.no_grad():
            self.num_features = self.eval().forward(torch.zeros(1, 3, size, size)).shape[1]

    def forward_features(self, images: Tensor) -> Tensor:
        return self._places(images)

    def forward_head(self, places: Tensor, pre_logits: bool = False) -> Tensor:
        """The class token, where there is one, or the mean over all places."""
        if places.dim() == 3:
            return places[:, 0] if self.num_prefix_tokens else places.mean(1)
        return places.mean((2, 3)) if places.dim() == 4 else places

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        return nn.Identity()


def create_foundation(name: str) -> Foundation:
    """The network of a name, with its weights.

    Raises:
        Refusal: its library is not installed, or does not give it.
    """
    prefix, _, rest = name.partition(":")
    build = {"hub": _hub, "transformers": _transformers, "open_clip": _open_clip}[prefix]
    try:
        return build(name, rest)
    except Refusal:
        raise
    except Exception as error:  # The libraries raise almost anything: their own errors, their transport's, the disk's.
        reason = shorten(str(error) or type(error).__name__, 160)
        raise Refusal(
            f"{name}: cannot be had ({reason}); check the name, and that this machine may fetch it"
        ) from error


def _library(name: str, package: str, install: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Refusal(f"{name}: needs the package {package}, which is not installed; pip install {install}") from error


def _hub(name: str, rest: str) -> Foundation:
    repository, _, entry = rest.rpartition(":")
    if not repository:
        raise Refusal(f"{name}: names no entry; give hub:OWNER/REPO:ENTRY")
    source = "local" if Path(repository).is_dir() else "github"
    network = torch.hub.load(repository, entry, source=source, trust_repo=True)
    return Foundation(network, network, 224, *IMAGENET)


def _transformers(name: str, rest: str) -> Foundation:
    library = _library(name, "transformers", "transformers")
    network = library.AutoModel.from_pretrained(rest)
    vision = getattr(network, "vision_model", network)
    try:
        stated = library.AutoImageProcessor.from_pretrained(rest)
        mean, std = stated.image_mean, stated.image_std
    except (OSError, ValueError, AttributeError):  # Without a processor's file: what most have.
        mean, std = IMAGENET
    size = getattr(vision.config, "image_size", 224)
    if vision is not network and hasattr(network, "get_image_features"):
        return Foundation(network, lambda images: _tensor(network.get_image_features(images)), size, mean, std)
    # Transformers have a class token, some registers after it; convolutional networks a map.
    tokens = hasattr(vision.config, "patch_size")
    prefix = 1 + getattr(vision.config, "num_register_tokens", 0) if tokens and _has_class_token(vision) else 0
    return Foundation(network, lambda images: vision(images).last_hidden_state, size, mean, std, prefix)


def _tensor(output: Any) -> Tensor:
    """A feature, which newer versions wrap."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _has_class_token(network: nn.Module) -> bool:
    return any(name.endswith(("cls_token", "class_embedding")) for name, _ in network.named_parameters())


def _open_clip(name: str, rest: str) -> Foundation:
    library = _library(name, "open_clip", "open_clip_torch")
    model, _, tag = rest.partition("/")
    if not tag:
        raise Refusal(f"{name}: names no weights; give open_clip:MODEL/TAG, such as open_clip:ViT-B-32/openai")
    network, *_ = library.create_model_and_transforms(model, pretrained=tag)
    visual = network.visual
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    return Foundation(visual, network.encode_image, size, visual.image_mean, visual.image_std)
