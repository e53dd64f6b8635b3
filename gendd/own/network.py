"""Networks that are given as Python objects, with timm's interface."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.networks.create import INTERFACE
from gendd.networks.features import has_classifier as has_linear_classifier
from gendd.networks.features import pooled_feature


@dataclass(frozen=True)
class Network:
    """A network with the function that returns its pooled feature.

    Args:
        module: any module.
        feature: function of the module and of images (B, 3, H, W) that returns the pooled feature (B, D). It must use
            its argument: it is also called with copies of the module.
        classifier: name of the submodule, an nn.Linear, that maps a teacher's feature to class scores; None without.
        mean, std: normalization of its images, red, green and blue in [0, 1] units; ImageNet's if not given.
    """

    module: nn.Module
    feature: Callable[[nn.Module, Tensor], Tensor]
    classifier: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class OwnNetwork(nn.Module):
    """A `Network` with timm's interface.

    Args:
        role: "student" or "teacher", for error messages.
        num_classes: number of outputs of a new classifier, if the network does not name one; 0 for no classifier.

    Raises:
        InvalidSetting: the function does not return one feature per image.
    """

    def __init__(self, role: str, given: Network, num_classes: int, image_size: int):
        super().__init__()
        self.network, self.feature, self.name = given.module, given.feature, given.classifier
        self.pretrained_cfg = {"mean": given.mean, "std": given.std}
        self.num_features = _feature_width(role, given, image_size)
        self.fc: nn.Module | None = None if self.name else self._classifier_of(num_classes)

    def _classifier_of(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, images: Tensor) -> Tensor:
        return self.feature(self.network, images)

    def forward_head(self, feature: Tensor, pre_logits: bool = False) -> Tensor:
        return feature if pre_logits else self.get_classifier()(feature)

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def get_classifier(self) -> nn.Module:
        return self.network.get_submodule(self.name) if self.fc is None else self.fc

    def reset_classifier(self, num_classes: int) -> None:
        self.name, self.fc = None, self._classifier_of(num_classes)


def _feature_width(role: str, given: Network, image_size: int) -> int:
    return _feature(role, given, image_size).shape[1]


def _feature(role: str, given: "nn.Module | Network", image_size: int) -> Tensor:
    """Return the pooled feature (1, D) of a black image."""
    module, function = (given.module, given.feature) if isinstance(given, Network) else (given, pooled_feature)
    training, first = module.training, next(module.parameters(), torch.empty(0))
    if any(value.is_meta for value in (*module.parameters(), *module.buffers())):
        reason = "its weights are on the meta device, which holds no values; create it on the CPU, or load its weights"
        raise InvalidSetting(role, type(module).__name__, reason)
    try:
        feature = function(module.eval(), torch.zeros(1, 3, image_size, image_size, device=first.device))
    except Exception as error:  # The user's code may raise anything.
        reason = f"its feature function fails for an image of {image_size} pixels ({type(error).__name__}: {error})"
        advice = "fix it, or set `image_size`"
        if first.dtype != torch.float32:
            advice = f"images are float32 and its weights {first.dtype}; give it in float32, by `.float()`"
        raise InvalidSetting(role, type(module).__name__, f"{reason}; {advice}") from error
    finally:
        module.train(training)
    if not (isinstance(feature, Tensor) and feature.dim() == 2 and len(feature) == 1):
        found = f"a tensor {tuple(feature.shape)}" if isinstance(feature, Tensor) else f"a {type(feature).__name__}"
        reason = f"its feature function returns {found} for one image; return the pooled feature (B, D)"
        raise InvalidSetting(role, type(module).__name__, reason)
    return feature


def check_learns(student: "nn.Module | Network", image_size: int) -> None:
    """Check that a given student can learn.

    Raises:
        InvalidSetting: no gradient reaches a parameter, because all are frozen or the feature is detached from them.
    """
    if not _feature("student", student, image_size).requires_grad:
        module = student.module if isinstance(student, Network) else student
        reason = "no gradient of its feature reaches a parameter; unfreeze it, and compute the feature with gradients"
        raise InvalidSetting("student", type(module).__name__, reason)


def _check(role: str, given: Network) -> None:
    """Raise InvalidSetting if the classifier does not exist, or the normalization cannot be used."""
    name = type(given.module).__name__
    if given.classifier and given.classifier not in dict(given.module.named_modules()):
        raise InvalidSetting(
            role, name, f"it does not have the submodule {given.classifier}; name its classifier, or None"
        )
    for title, values in (("mean", given.mean), ("std", given.std)):
        if values is not None and (len(values) != 3 or (title == "std" and min(values) <= 0)):
            raise InvalidSetting(role, name, f"its {title} is {values}; give three numbers, for std above 0")


def has_classifier(given: nn.Module | Network) -> bool:
    """Return True if a given network has a classifier for a teacher."""
    if isinstance(given, Network):
        return given.classifier is not None
    # `as_timm` refuses a module without timm's interface.
    return hasattr(given, "get_classifier") and has_linear_classifier(given)


def as_timm(role: str, given: "nn.Module | Network", image_size: int) -> Callable[..., nn.Module]:
    """Return a function of `num_classes` that returns the network with timm's interface.

    A student is trained in place. A teacher is copied, because the student may share its modules. Each call copies it
    again, because it is frozen and may change its precision.

    Raises:
        InvalidSetting: a plain module does not have timm's interface, the description of the network is wrong, or the
            object is neither.
    """
    if not isinstance(given, nn.Module | Network):
        raise InvalidSetting(role, type(given).__name__, "give a network's name, a module or a gendd.Network")
    given = copy.deepcopy(given) if role == "teacher" else given
    if isinstance(given, Network):
        built: dict[int, OwnNetwork] = {}
        _check(role, given)
        _feature_width(role, given, image_size)

        def create(num_classes: int) -> nn.Module:
            return built.setdefault(num_classes, OwnNetwork(role, given, num_classes, image_size))

    else:
        missing = [name for name in INTERFACE if not hasattr(given, name)]
        if missing:
            reason = f"it lacks {', '.join(missing)} of timm's interface; give gendd.Network(module, feature=function)"
            raise InvalidSetting(role, type(given).__name__, reason)

        def create(num_classes: int) -> nn.Module:
            classifier = given.get_classifier()
            if role == "student" and getattr(classifier, "out_features", 0) != num_classes:
                given.reset_classifier(num_classes)
            return given

    return create if role == "student" else lambda num_classes: copy.deepcopy(create(num_classes))
