"""Teachers and students: any network that speaks timm's interface, by name or from a user's own function."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from gendd.errors import UserError, unknown_name

SMALL_IMAGE = 64
INTERFACE = ("forward_features", "forward_head", "get_classifier", "num_features")


def pooled_feature(network: nn.Module, images: Tensor) -> Tensor:
    """Penultimate feature (B, D), as the classifier sees it."""
    return network.forward_head(network.forward_features(images), pre_logits=True)


def feature_width(network: nn.Module) -> int:
    """Width D of `pooled_feature`."""
    return getattr(network, "head_hidden_size", None) or network.num_features


def classifier_name(network: nn.Module) -> str:
    """Name of the classifier among the network's modules."""
    return next(name for name, module in network.named_modules() if module is network.get_classifier())


@dataclass(frozen=True)
class Names:
    """The networks that a tree names, and the normalisation of networks that state none.

    Args:
        short: the tree's own names, each with timm's name for it.
        small_stems: whether timm's other networks keep the resolution of small images in their stem.
        remedy: for a file that is not in pretrained/; {name} stands for the network's.
    """

    short: dict[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    small_stems: bool = False
    remedy: str = "give the word timm in its place for the weights that timm publishes"

    def in_timm(self, name: str) -> str | None:
        """timm's name of the network, if it may have one."""
        return name.removeprefix("timm/") if name.startswith("timm/") else self.short.get(name)


def create_network(flag: str, name: str, names: Names, num_classes: int, image_size: int) -> nn.Module:
    """Build a network with random weights.

    Args:
        flag: the option that named it, for error messages.
        name: a short one, "timm/<any timm model>", or "package.module:function"; the function takes
            num_classes and returns a module that speaks timm's interface.

    Raises:
        UserError: no such name, or a network without the interface.
    """
    if ":" in name:
        network = _from_function(flag, name, num_classes)
    else:
        timm_name = names.in_timm(name)
        if not timm_name or not timm.is_model(timm_name):
            raise _unknown_network(flag, name, names)
        _check_tag(flag, name, timm_name)
        network = create_timm(timm_name, num_classes, image_size)
        if names.small_stems and image_size <= SMALL_IMAGE and timm_name not in names.short.values():
            _fit_small_images(network)
    if not getattr(network, "pretrained_cfg", None):
        network.pretrained_cfg = {"mean": names.mean, "std": names.std}
    missing = [attribute for attribute in INTERFACE if not hasattr(network, attribute)]
    if missing:
        raise UserError(f"{flag} {name}: the network lacks {', '.join(missing)} of timm's interface; add them")
    if not isinstance(network.get_classifier(), nn.Linear):
        raise UserError(
            f"{flag} {name}: its classifier is no nn.Linear, which the method needs; choose another network"
        )
    outputs = network.get_classifier().out_features
    if outputs != num_classes:
        raise UserError(f"{flag} {name}: its classifier has {outputs} outputs, the data set {num_classes} classes")
    return network


def _unknown_network(flag: str, name: str, names: Names) -> UserError:
    if timm.is_model(name):
        return UserError(f"{flag} {name}: no short name here; timm's network of this name is timm/{name}")
    in_timm = [f"timm/{model}" for model in timm.list_models()] if name.startswith("timm/") else []
    return unknown_name(flag, name, in_timm or names.short)


def _check_tag(flag: str, name: str, timm_name: str) -> None:
    """`timm.is_model` looks at the part before the dot alone."""
    try:
        timm.models.get_pretrained_cfg(timm_name)
    except RuntimeError as error:
        tagged = timm.models.get_arch_pretrained_cfgs(timm_name)
        raise unknown_name(flag, name, [f"timm/{known}" for known in tagged]) from error


def _from_function(flag: str, name: str, num_classes: int) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f"{flag} {name}: {error}; give package.module:function, importable from here") from error
    return function(num_classes=num_classes)


def create_timm(name: str, num_classes: int, image_size: int, **options) -> nn.Module:
    """timm's network of this name for images of this size; `options` are `timm.create_model`'s."""
    try:
        # Transformers size their position embedding by the image; other families do not know the argument.
        return timm.create_model(name, num_classes=num_classes, img_size=image_size, **options)
    except TypeError:
        return timm.create_model(name, num_classes=num_classes, **options)


def _fit_small_images(network: nn.Module) -> None:
    """Keep the resolution in the stem, as CIFAR networks do: first convolution of stride 1, no max-pooling."""
    first = network.pretrained_cfg.get("first_conv")
    if isinstance(first, str):
        convolution = network.get_submodule(first)
        if isinstance(convolution, nn.Conv2d) and convolution.stride == (2, 2):
            network.set_submodule(
                first,
                nn.Conv2d(
                    convolution.in_channels, convolution.out_channels, 3, padding=1, bias=convolution.bias is not None
                ),
            )
    if isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()


def recompute_activations(flag: str, name: str, network: nn.Module) -> None:
    """Have a network recompute its activations in the backward pass, by timm's `set_grad_checkpointing`.

    Raises:
        UserError: the network cannot.
    """
    try:
        network.set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"{flag}: {name} has no gradient checkpointing; leave its part out") from error
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(partial(_count_once, module.momentum))


def _count_once(momentum: float | None, norm: _BatchNorm, _) -> None:
    """A batch that is met again, in the backward pass, leaves the running statistics as they are."""
    if torch.compiler.is_compiling():  # Compiled code does so by itself.
        return
    again = ModuleTracker().is_bw
    norm.momentum = 0.0 if again else momentum
    if again:
        norm.num_batches_tracked.sub_(1)


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def flops(function: Callable[[], object]) -> int:
    """Floating-point operations of a call (a multiply-add counts two), matrix products and convolutions."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def as_flops(number: int) -> str:
    """Such as "7.3 GFLOPs"."""
    return f"{number / 1e9:.1f} GFLOPs" if number >= 1e9 else f"{number / 1e6:.1f} MFLOPs"
