"""Teachers from other libraries, with timm's interface, by the names of --teacher. The library loads the weights.

hub:OWNER/REPO:ENTRY          an entry of torch.hub; OWNER/REPO may be a folder.
transformers:ID               a vision model of Hugging Face's transformers; ID is its id on the hub, or a folder.
open_clip:MODEL/TAG           the image tower of a CLIP model of open_clip; TAG may be a file.
open_clip:local-dir:FOLDER    the same, from a folder with open_clip_config.json.
open_clip:hf-hub:OWNER/NAME   the same, from the hub.

A library is needed, and imported, only if such a name is given.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import isqrt
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidValue, no_such
from gendd.core.extras import imported_extra
from gendd.core.own_code import brief
from gendd.networks.processors import Normalization, measure

TORCH_HUB = "hub:"
PREFIXES = (TORCH_HUB, "transformers:", "open_clip:")
# Names of torch.hub's default branches.
BRANCHES = ("main", "master")
OPEN_CLIP_PLACES = ("local-dir:", "hf-hub:")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEFAULT_SIDE = 224
CLASS_TOKENS = ("cls_token", "class_embedding")
# Outputs of detectors in transformers. Their last state belongs to the queries, not to the image.
QUERIES = ("encoder_last_hidden_state", "intermediate_hidden_states")
# Upper bound on class, distillation and register tokens; a detector has hundreds of additional tokens.
MOST_PREFIX_TOKENS = 16


def is_foundation(name: str) -> bool:
    return name.startswith(PREFIXES)


class Output(NamedTuple):
    """The output of a network.

    Attributes:
        feature: (B, D).
        places: the last tokens (B, N, D) or feature map (B, D, H, W); None if the network does not return them.
        name: the feature's name, for the plan.
    """

    feature: Tensor
    places: Tensor | None = None
    name: str = "what the network returns"


class Foundation(nn.Module):
    """A network without a classifier, with timm's interface.

    Args:
        read: function of images (B, 3, H, W), in the network's normalization, that returns an Output.
        side: default side of the images in pixels.
        normalization: of the network's images.

    Attributes:
        feature_name: the library's name for the feature.
    """

    def __init__(
        self,
        network: nn.Module,
        read: Callable[[Tensor], Output],
        side: int,
        normalization: Normalization,
    ):
        super().__init__()
        self.network, self._read = network.float(), read
        self._blue_first, self._gives_places = normalization.blue_first, True
        self.pretrained_cfg = {
            "mean": normalization.mean,
            "std": normalization.std,
            "normalization": normalization.source,
            "input_size": (3, side, side),
            "num_classes": 0,
        }
        with torch.no_grad():
            output = self.eval().forward_features(torch.zeros(1, 3, side, side))
        if output.feature.dim() != 2:
            raise ValueError(f"{output.name} of shape {tuple(output.feature.shape)} is not one feature per image")
        self.num_features, self.feature_name = output.feature.shape[1], output.name
        self.num_prefix_tokens = _prefix_tokens(network, output.places, side)
        self._gives_places = output.places is not None and self.num_prefix_tokens <= MOST_PREFIX_TOKENS

    def forward_features(self, images: Tensor) -> Output:
        output = self._read(images.flip(1) if self._blue_first else images)
        return output if self._gives_places else output._replace(places=None)

    def forward_head(self, output: Output, pre_logits: bool = False) -> Tensor:
        return output.feature

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images).feature

    def get_classifier(self) -> nn.Module:
        return nn.Identity()


def create_foundation(name: str, trust_remote_code: bool = False) -> Foundation:
    """Load a network of another library with its weights, in single precision.

    Args:
        trust_remote_code: whether a name of torch.hub or transformers may download code and run it.

    Raises:
        InvalidValue: the library is not installed, loading fails, or the result is not a feature network.
    """
    prefix, _, rest = name.partition(":")
    try:
        if prefix == "open_clip":
            arguments = _open_clip(name, rest)
        else:
            arguments = {"hub": _hub, "transformers": _transformers}[prefix](name, rest, trust_remote_code)
    except InvalidValue:
        raise
    except Exception as error:  # Libraries raise many kinds of errors: their own, their transport's, the disk's.
        raise InvalidValue(
            name, f"cannot be loaded ({_brief(error)}); check the name and this machine's network access"
        ) from error
    try:
        return Foundation(*arguments)
    except InvalidValue:
        raise
    except Exception as error:
        side = arguments[2]
        raise InvalidValue(
            name, f"cannot take an image of 3 x {side} x {side} ({_brief(error)}); choose another network"
        ) from error


Arguments = tuple[nn.Module, Callable[[Tensor], Output], int, Normalization]


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {brief(error)}"


def _assumed(why: str) -> Normalization:
    return Normalization(*IMAGENET, f"ImageNet's, assumed: {why}")


def _side(name: str, stated: int | Iterable[int] | Mapping[str, int]) -> int:
    """Return the side of the images, which a library may state as a number, a list or a dictionary.

    Raises:
        InvalidValue: the images are not square.
    """
    sides = [stated] if isinstance(stated, int) else list(stated.values() if isinstance(stated, Mapping) else stated)
    if len(set(sides)) != 1:
        raise InvalidValue(
            name, f"takes images of {' x '.join(map(str, sides))} pixels; choose a network for square ones"
        )
    return int(sides[0])


def _prefix_tokens(network: nn.Module, places: Tensor | None, side: int) -> int:
    """Return the number of tokens before the patch tokens; the first one is the class token."""
    if places is None or places.dim() != 3:
        return 0
    patch = getattr(getattr(network, "config", None), "patch_size", None)
    count = places.shape[1]
    patches = (side // patch) ** 2 if isinstance(patch, int) else isqrt(count) ** 2
    # Hierarchical networks state the patch size of the first stage; their last stage has fewer tokens.
    return count - (patches if patches <= count else isqrt(count) ** 2)


# torch.hub


def _hub(name: str, rest: str, trust_remote_code: bool) -> Arguments:
    repository, _, entry = rest.rpartition(":")
    if not repository:
        raise InvalidValue(name, "does not name an entry; give hub:OWNER/REPO:ENTRY")
    folder = repository
    if not Path(folder).is_dir():
        if repository.partition(":")[0].count("/") != 1:
            raise InvalidValue(
                name, f"{folder}: {no_such(folder, 'folder')}, nor a repository OWNER/REPO; check the name"
            )
        folder = _cached(repository) or _fetched(name, repository, trust_remote_code)
    with torch.hub._add_to_sys_path(folder):
        module = torch.hub._import_module(torch.hub.MODULE_HUBCONF, str(Path(folder, torch.hub.MODULE_HUBCONF)))
        function = torch.hub._load_entry_from_hubconf(module, entry)
        asked = _asks_for_weights(function)
        network = function(**asked)
        if not isinstance(network, nn.Module):
            raise InvalidValue(name, f"returns a {type(network).__name__}; choose an entry that returns an nn.Module")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch.initial_seed() + 1)
            again = function(**asked).state_dict()
    kept = partial(torch.allclose, rtol=0, atol=0, equal_nan=True)
    changed = [key for key, value in network.state_dict().items() if not kept(value, again[key])]
    if changed:
        raise InvalidValue(
            name,
            f"has random weights: {len(changed)} of {len(again)} tensors, such as {changed[0]}, change from "
            "call to call; choose an entry that loads its weights",
        )
    return (
        network,
        lambda images: _output_of(name, network(images)),
        DEFAULT_SIDE,
        _assumed("torch.hub states none"),
    )


def _cached(repository: str) -> str | None:
    """Return the folder of a repository OWNER/REPO[:REF] in torch.hub's cache, or None."""
    repository, _, ref = repository.partition(":")
    stem = repository.replace("/", "_")
    folders = [Path(torch.hub.get_dir(), f"{stem}_{name.replace('/', '_')}") for name in ([ref] if ref else BRANCHES)]
    return next((str(folder) for folder in folders if folder.is_dir()), None)


def _fetched(name: str, repository: str, trust_remote_code: bool) -> str:
    """Download a repository into torch.hub's cache; return its folder there.

    Raises:
        InvalidValue: its code is not trusted.
    """
    if not trust_remote_code:
        raise InvalidValue(
            name,
            f"it runs code of github.com/{repository.partition(':')[0]}, which was not fetched before; read that code, "
            "then run train or evaluate once with `trust_remote_code=True`",
        )
    return torch.hub._get_cache_or_reload(repository, False, trust_repo=True)


def _asks_for_weights(function: Callable) -> dict[str, Any]:
    """Return the arguments that make an entry load its trained weights, if its defaults do not."""
    parameters = inspect.signature(function).parameters
    for argument, value in (("pretrained", True), ("weights", "DEFAULT")):
        if argument in parameters:
            default = parameters[argument].default
            return {} if default and default is not inspect.Parameter.empty else {argument: value}
    return {}


def _output_of(name: str, output: Any) -> Output:
    """Interpret a plain tensor as feature (B, D), tokens (B, N, D) or feature map (B, D, H, W).

    Raises:
        InvalidValue: the output is not such a tensor.
    """
    if not isinstance(output, Tensor):
        parts = f" ({', '.join(map(str, output))})" if isinstance(output, Mapping) else ""
        raise InvalidValue(
            name,
            f"returns a {type(output).__name__}{parts}, not a tensor; write a function that wraps the network and "
            "returns its feature, and give it as package.module:function",
        )
    if output.dim() == 2:
        return Output(output)
    if output.dim() in (3, 4):
        return _mean(output)
    raise InvalidValue(
        name, f"returns a tensor of shape {tuple(output.shape)}, not one feature per image; choose another"
    )


def _mean(places: Tensor) -> Output:
    return Output(places.mean(1 if places.dim() == 3 else (2, 3)), places, "mean over all places")


# transformers


def _transformers(name: str, rest: str, trust_remote_code: bool) -> Arguments:
    library = imported_extra("transformers", "foundation", name)
    # Not given, transformers would ask in a terminal.
    trust = {"trust_remote_code": trust_remote_code}
    config = library.AutoConfig.from_pretrained(rest, **trust)
    # AutoModel would drop the saved projection of such a vision tower.
    saved = [stated for stated in config.architectures or () if stated.endswith("VisionModelWithProjection")]
    model = getattr(library, saved[0]) if saved else library.AutoModel
    network, report = model.from_pretrained(rest, output_loading_info=True, **trust)
    absent = sorted(report["missing_keys"])
    others = [key for key in absent if "pooler" not in key]
    if others:
        raise InvalidValue(
            name,
            f"{len(others)} of its tensors, such as {others[0]}, are not among its weights and would stay "
            "random; choose a model that was saved whole",
        )
    normalization = _of_processor(name, library, rest, trust)
    vision = getattr(config, "vision_config", config)
    # The processor first: it gives DINOv2 224 pixels, the configuration states the 518 of its last training.
    stated = normalization.side or getattr(vision, "image_size", None) or DEFAULT_SIDE
    class_token = any(key.endswith(CLASS_TOKENS) for key, _ in network.named_parameters())

    def read(images: Tensor) -> Output:
        if hasattr(network, "get_image_features"):
            output = network.get_image_features(pixel_values=images)
            return Output(output, None, "image features") if isinstance(output, Tensor) else _read(name, output)
        return _read(name, network(pixel_values=images), class_token, trained_pooler=not absent)

    return network, read, _side(name, stated), normalization


def _of_processor(name: str, library: ModuleType, rest: str, trust: Mapping[str, bool]) -> Normalization:
    try:
        processor = library.AutoImageProcessor.from_pretrained(rest, **trust)
    except (OSError, ValueError):  # Usually the model does not have a processor's file.
        return _assumed("the model has no image processor")
    return measure(name, processor)


def _read(name: str, output: Any, class_token: bool = False, trained_pooler: bool = True) -> Output:
    """Return the feature that a model pools; otherwise its class token or the mean over its positions.

    Raises:
        InvalidValue: the output does not contain a feature of the image.
    """
    places = getattr(output, "last_hidden_state", None)
    for field in ("image_embeds", "pooler_output"):
        feature = getattr(output, field, None)
        if feature is not None and (trained_pooler or field != "pooler_output"):
            # Convolutional networks pool to maps of one pixel.
            return Output(feature.flatten(1) if feature.dim() == 4 else feature, places, field)
    if places is None or any(field in output for field in QUERIES):
        raise InvalidValue(name, f"gives no feature of an image ({', '.join(output)}); choose another model")
    if places.dim() == 3 and class_token:
        return Output(places[:, 0], places, "class token")
    return _mean(places)


# open_clip


def _open_clip(name: str, rest: str) -> Arguments:
    library = imported_extra("open_clip", "foundation", name)
    in_place = rest.startswith(OPEN_CLIP_PLACES)
    model, _, tag = (rest, "", "") if in_place else rest.partition("/")
    if not (tag or in_place):
        raise InvalidValue(
            name,
            "does not name weights; give open_clip:MODEL/TAG, such as open_clip:ViT-B-32/openai, "
            "open_clip:local-dir:FOLDER or open_clip:hf-hub:OWNER/NAME",
        )
    network = library.create_model(model, pretrained=tag or None, require_pretrained=True)
    visual = network.visual
    stated = Normalization(tuple(visual.image_mean), tuple(visual.image_std), "its configuration's")
    read = lambda images: Output(network.encode_image(images), None, "image embedding")  # noqa: E731
    return visual, read, _side(name, visual.image_size), stated
