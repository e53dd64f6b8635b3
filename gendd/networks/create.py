"""Creation of teachers and students: any network with timm's interface, by name or from a user's function."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.module_tracker import ModuleTracker

from gendd.core.errors import InvalidValue, unknown_name
from gendd.core.files import checksum
from gendd.core.own_code import brief, imported, raised
from gendd.networks import timm_names
from gendd.networks.cost import as_flops, flops, parameter_count
from gendd.networks.external import create_foundation, is_foundation
from gendd.networks.features import feature_width, pooled_feature

SMALL_IMAGE = 64
UNSTATED = "this family's: its pretrained_cfg states none"
INTERFACE = ("forward_features", "forward_head", "get_classifier", "num_features")


def take_classifier(name: str, network: nn.Module) -> None:
    """Remove a network's classifier.

    Raises:
        InvalidValue: the network does not have `reset_classifier`.
    """
    if not hasattr(network, "reset_classifier"):
        raise InvalidValue(
            name, "the network needs timm's reset_classifier, as there are no classes to learn; add this method"
        )
    network.reset_classifier(0)


@dataclass(frozen=True)
class Zoo:
    """A family's short names of networks, and its default normalization.

    Args:
        short: timm's name for each of the family's short names.
        mean, std: normalization for networks that do not state one, in [0, 1] units.
        small_stems: whether to change the stems of timm's other networks so that small images keep their resolution.
        remedy: advice for a file that is missing in pretrained/; {name} is replaced by the network's name.
    """

    short: dict[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    small_stems: bool = False
    remedy: str = "give the word timm in its place for the weights that timm publishes"

    def in_timm(self, name: str) -> str | None:
        """Return the network's possible name in timm, or None."""
        return name.removeprefix("timm/") if name.startswith("timm/") else self.short.get(name)


def is_foreign(name: str) -> bool:
    """Return whether another library or a user's function creates the network and loads its weights."""
    return ":" in name and not timm_names.is_source(name)


def create_network(
    name: str,
    zoo: Zoo,
    num_classes: int,
    image_size: int,
    needs_classifier: bool = True,
    size_field: str = "image_size",
    trust_remote_code: bool = False,
) -> nn.Module:
    """Create a network, with random weights unless another library or a user's function loads weights.

    Args:
        name: a short name, "timm/<any timm model>", timm's "hf-hub:..." or "local-dir:...", a name of another library
            (`gendd.networks.external`), or "package.module:function". The function takes num_classes and returns a
            module with timm's interface.
        num_classes: 0 for a network without a classifier.
        needs_classifier: whether the network must have a classifier with `num_classes` outputs.
        size_field: the setting that determines the image size, for error messages.
        trust_remote_code: whether another library may download code and run it.

    Raises:
        InvalidValue: the name is unknown, or the network does not have timm's interface.
    """
    if is_foundation(name):
        # Libraries initialize tensors that are not in their files, such as a pooler, at random. A fixed seed makes the
        # network independent of the run's seed.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = create_foundation(name, trust_remote_code)
    elif is_foreign(name):
        network = _from_function(name, num_classes)
    else:
        network = _from_timm(name, zoo, num_classes, image_size, size_field)
    # "normalization" names its source, if this is not the network itself.
    cfg = dict(getattr(network, "pretrained_cfg", None) or {})
    if not (cfg.get("mean") and cfg.get("std")):
        network.pretrained_cfg = {**cfg, "mean": zoo.mean, "std": zoo.std, "normalization": UNSTATED}
    if next(network.parameters(), None) is None:
        raise InvalidValue(name, "cannot have learned anything without parameters; choose another network")
    missing = [attribute for attribute in INTERFACE if not hasattr(network, attribute)]
    if missing:
        raise InvalidValue(name, f"the network needs {', '.join(missing)} of timm's interface; add them")
    if not num_classes or not needs_classifier:
        return network
    if not isinstance(network.get_classifier(), nn.Linear):
        raise InvalidValue(name, "its classifier is not an nn.Linear, which the method needs; choose another network")
    outputs = network.get_classifier().out_features
    if outputs != num_classes:
        raise InvalidValue(
            name,
            f"its classifier has {outputs} outputs, the data set {num_classes} classes; choose a network with as many, "
            "or `teacher_classifier=False` for the features of a teacher alone",
        )
    return network


def timm_can_build(name: str, network: nn.Module) -> bool:
    """Return whether timm alone can create this network: a network of timm with its original stem."""
    return (":" not in name or timm_names.is_source(name)) and not getattr(network, "has_small_stem", False)


def _from_timm(name: str, zoo: Zoo, num_classes: int, image_size: int, size_field: str) -> nn.Module:
    if timm_names.is_source(name):
        timm_name = f"{timm_names.LOCAL}{timm_names.find(name, timm_names.CONFIG).parent}"
    else:
        timm_name = known_in_timm(name, zoo)
    try:
        network = create_timm(timm_name, num_classes, image_size)
    except Exception as error:  # timm's networks raise many kinds of errors at image sizes that they do not support.
        raise InvalidValue(
            name,
            f"timm cannot build it for images of {image_size} pixels ({brief(error)}); choose another "
            f"network or `{size_field}`",
        ) from error
    architecture = network.pretrained_cfg.get("architecture")
    if zoo.small_stems and image_size <= SMALL_IMAGE and architecture not in zoo.short.values():
        _fit_small_images(network)
    return network


def known_in_timm(name: str, zoo: Zoo) -> str:
    """Return timm's name of a network.

    Raises:
        InvalidValue: timm does not have the network, or the tag of its weights; the message lists similar names.
    """
    timm_name = zoo.in_timm(name) or ""
    if not timm.is_model(timm_name):
        raise _unknown_network(name, zoo)
    _check_tag(name, timm_name)
    return timm_name


def _unknown_network(name: str, zoo: Zoo) -> InvalidValue:
    if timm.is_model(name):
        return InvalidValue(name, f"no short name here; timm's network of this name is timm/{name}")
    in_timm = [f"timm/{model}" for model in timm.list_models()] if name.startswith("timm/") else []
    return unknown_name(name, in_timm or zoo.short)


def _check_tag(name: str, timm_name: str) -> None:
    """Check the tag after the dot, which `timm.is_model` ignores."""
    try:
        timm.models.get_pretrained_cfg(timm_name)
    except RuntimeError as error:
        tagged = timm.models.get_arch_pretrained_cfgs(timm_name)
        raise unknown_name(name, [f"timm/{known}" for known in tagged]) from error


def _from_function(name: str, num_classes: int) -> nn.Module:
    function = cast(Callable[..., object], imported(name, "function"))
    try:
        inspect.signature(function).bind(num_classes=num_classes)
    except (TypeError, ValueError) as error:
        raise InvalidValue(
            name, f"cannot be called with num_classes alone ({error}); give a function that can"
        ) from error
    try:
        network = function(num_classes=num_classes)
    except Exception as error:
        raise raised(name, f"fails for num_classes={num_classes}", error) from error
    if not isinstance(network, nn.Module):
        raise InvalidValue(name, f"returns a {type(network).__name__}; give a function that returns an nn.Module")
    return network


def create_timm(name: str, num_classes: int, image_size: int, **options) -> nn.Module:
    """Create timm's network of this name for images of this size; pass `options` to `timm.create_model`."""
    try:
        # Transformers need the image size for their position embedding; other families do not have the argument.
        return timm.create_model(name, num_classes=num_classes, img_size=image_size, **options)
    except TypeError:
        return timm.create_model(name, num_classes=num_classes, **options)


def _fit_small_images(network: nn.Module) -> None:
    """Keep the resolution in the stem, as CIFAR networks do: stride 1 in the first convolution, no max-pooling."""
    first = network.pretrained_cfg.get("first_conv")
    if isinstance(first, str):
        convolution = network.get_submodule(first)
        if isinstance(convolution, nn.Conv2d) and convolution.stride == (2, 2):
            network.has_small_stem = True
            network.set_submodule(
                first,
                nn.Conv2d(
                    convolution.in_channels, convolution.out_channels, 3, padding=1, bias=convolution.bias is not None
                ),
            )
    if isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.has_small_stem = True
        network.maxpool = nn.Identity()


def trial(name: str, network: nn.Module, image_size: int, size_field: str = "image_size") -> int:
    """Run a network on one image and return its number of floating-point operations.

    A network on the meta device computes nothing.

    Raises:
        InvalidValue: the forward pass fails, or the widths of feature, `num_features` and classifier disagree.
    """
    try:
        with next(network.parameters()).device, torch.no_grad():
            image = torch.zeros(1, 3, image_size, image_size)
            cost = flops(lambda: network.eval()(image))
            shape = tuple(pooled_feature(network, image).shape)
            classifier = network.get_classifier()
    except Exception as error:  # Networks raise many kinds of errors at image sizes that they do not support.
        raise InvalidValue(
            name,
            f"cannot classify an image of 3 x {image_size} x {image_size} ({brief(error)}); choose "
            f"another network or `{size_field}`",
        ) from error
    said = feature_width(network)
    taken = classifier.in_features if isinstance(classifier, nn.Linear) else said
    if not shape == (1, said) == (1, taken):
        raise InvalidValue(
            name,
            f"its pooled feature of one image has shape {shape}, its num_features is {said}, its "
            f"classifier takes {taken}; make them agree",
        )
    return cost


@torch.no_grad()
def check_trains(name: str, network: nn.Module, image_size: int, images: int) -> None:
    """Check that a network accepts `images` images at once in training mode, where batch norm may need several.

    The network's buffers are restored afterwards.

    Raises:
        InvalidValue: the forward pass fails.
    """
    device = next(network.parameters()).device
    kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        network.train()(torch.zeros(min(images, 2), 3, image_size, image_size, device=device))
    except Exception as error:
        raise InvalidValue(
            name,
            f"cannot be trained on {images} image{'s' * (images > 1)} of {image_size} pixels at once "
            f"({brief(error)}); give a greater `batch_size`, a smaller `grad_accum_steps` or another `image_size`",
        ) from error
    finally:
        network.eval()
        for buffer, value in kept:
            buffer.copy_(value)


def recompute_activations(name: str, network: nn.Module) -> None:
    """Enable gradient checkpointing by timm's `set_grad_checkpointing`.

    Raises:
        InvalidValue: the network does not support it.
    """
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise InvalidValue("", f"{name} does not support gradient checkpointing; choose another value") from error
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(partial(_count_once, module.momentum))


def _count_once(momentum: float | None, norm: _BatchNorm, _) -> None:
    """Keep batch norm from updating its running statistics again when the backward pass recomputes a batch."""
    if torch.compiler.is_compiling():  # Compiled code does not update them twice.
        return
    again = ModuleTracker().is_bw
    norm.momentum = 0.0 if again else momentum
    if again:
        norm.num_batches_tracked.sub_(1)


@dataclass
class LoadedNetwork:
    """A network with its weights, and descriptions of both for the plan.

    Attributes:
        flops: floating-point operations per image.
        tensors: all tensors of the weight file; a distilled student's file holds more than the network.
        file: path of the weight file, or None.
        trained: whether weights were loaded, from a file or by the code that creates the network.
        loaded: description of the loaded weights.
        normalization: description of the assumed normalization, if the network does not state one.
        checksum: SHA-256 of the network's tensors, if the record needs it.
        license: identifier of the license of the weights, as timm states it; "unknown" for other weights.
    """

    name: str
    network: nn.Module
    flops: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    file: Path | None = None
    trained: bool = False
    loaded: str = "random weights"
    normalization: str = ""
    checksum: str | None = None
    license: str = "unknown"

    @cached_property
    def file_checksum(self) -> str | None:
        """SHA-256 of the weight file, or None without one."""
        return checksum(self.file) if self.file else None

    def describe(self) -> str:
        size = f"{parameter_count(self.network) / 1e6:.2f} M parameters, {as_flops(self.flops)} per image"
        return f"{self.name}: {size}{self.normalization}"

    def describe_weights(self) -> str:
        return self.loaded + (f", sha256 {self.checksum[:12]}" if self.checksum else "")
