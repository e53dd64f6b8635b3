"""Build the student and the frozen teacher of a configuration, with their weights."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import timm
import torch
from torch import nn

from gendd.config import Config, Networks
from gendd.core.errors import InvalidSetting, MissingFile, naming, no_such
from gendd.distillation.stored_teacher import StoredTeacher
from gendd.distillation.stored_weights import StoredWeights
from gendd.distillation.teacher import FrozenTeacher
from gendd.distillation.teacher_feature import check_repeats, describe, projection_width, usual, width_of
from gendd.methods.base import FEATURES_ALONE, FEATURES_AND_LABELS
from gendd.networks import checkpoint, timm_names, timm_weights
from gendd.networks.checkpoint import Weights
from gendd.networks.create import LoadedNetwork, Zoo, create_network, is_foreign, known_in_timm, trial
from gendd.networks.external import is_foundation
from gendd.networks.meta import MappedFile, created_empty, without_values
from gendd.networks.tensors import check_finite, checksum_of
from gendd.networks.timm_names import TIMM

# Given in place of a file: random weights, to try a recipe without a trained teacher.
RANDOM = "random"


def build_student(
    name: str,
    weights: str | None,
    zoo: Zoo,
    num_classes: int,
    image_size: int,
    allow_partial: bool | None = False,
    trust_remote_code: bool = False,
) -> LoadedNetwork:
    """Create the student and load its weights.

    Args:
        weights: a file, a run folder, "timm" for the published weights, or "random" or None for random ones.
        allow_partial: see `checkpoint.load_weights`.
        trust_remote_code: see `create_network`.

    Raises:
        UserError: the name is unknown, or the weights are missing or do not fit. A classifier does not have to fit.
    """
    with naming("student"):
        network = create_network(name, zoo, num_classes, image_size, trust_remote_code=trust_remote_code)
        student = LoadedNetwork(name, network, trial(name, network, image_size))
    student.normalization = _normalize(network, None, None)
    found = find_weights("student", name, weights, zoo)
    if found:
        _fill(student, found, "student_weights", weights, image_size, allow_partial, initial=True)
    else:
        _accept_as_created(student, "student", weights)
    return student


def check_names_weights(networks: Networks) -> None:
    """Raise InvalidSetting if a teacher needs weights, and none are named."""
    for one in networks.more_teachers:
        check_names_weights(replace(networks, **vars(one), more_teachers=()))
    if networks.teacher and not networks.teacher_weights and not is_foreign(networks.teacher):
        raise InvalidSetting(
            "teacher_weights",
            None,
            "name a file or a run folder, or give timm for the published weights (random works for a trial of speed "
            "and memory)",
        )


def build_teacher(
    config: Config,
    zoo: Zoo,
    num_classes: int,
    student: nn.Module | None = None,
    device: torch.device | None = None,
    precision: str = "fp32",
) -> FrozenTeacher:
    """Create the teacher, load its weights, and determine whether it classifies the data.

    It does not without a classifier in its weights, with one for another number of classes, or with
    --no-teacher-classifier.

    Raises:
        UserError: see `build_student`; or the method needs a classifier and the teacher does not classify the data.
    """
    networks, weights, name = config.networks, config.networks.teacher_weights, config.networks.teacher or ""
    if (stored := StoredWeights.named(weights)) and student:
        return _stored_teacher(config, stored, student, device or torch.device("cpu"))
    size_field = "teacher_image_size" if networks.teacher_image_size else "image_size"
    image_size = networks.teacher_image_size or config.data.image_size
    found = find_weights("teacher", name, weights, zoo)
    with naming("teacher"):
        own, learned = _own_classes(found, name, zoo, num_classes, image_size, size_field)
        needed = config.method.needs_classifier(config)
        # The teacher's classifier takes the pooled feature as its input.
        is_classifier = own == num_classes > 0 and own != _projection(name, zoo) and (learned or needed)
        classifies = networks.teacher_classifier and is_classifier and networks.teacher_feature in READABLE
        if not classifies and needed:
            _refuse_classless(config, own, num_classes, found)
        trusted = config.run.trust_remote_code
        mapped = found is not None and _is_mapped(name, found, networks.allow_partial)
        create = partial(create_network, name, zoo, own, image_size, classifies, size_field, trusted)
        network = created_empty(create) if mapped else create()
        if is_foundation(name) and not networks.teacher_image_size:
            image_size = network.pretrained_cfg["input_size"][-1]
        shapes = without_values(network)
        loaded = LoadedNetwork(name, network, trial(name, shapes, image_size, size_field))
        kind = usual(network) if networks.teacher_feature == "auto" else networks.teacher_feature
    with naming("teacher_feature"):
        width = width_of(shapes, kind, image_size)
    loaded.normalization = _normalize(network, networks.teacher_mean, networks.teacher_std)
    if found:
        if weights == TIMM:
            loaded.license = network.pretrained_cfg.get("license") or loaded.license
        _fill(loaded, found, "teacher_weights", weights, image_size, networks.allow_partial, classifies)
    else:
        _accept_as_created(loaded, "teacher", weights)
        if weights is None and is_foreign(name) and not is_foundation(name):
            _refuse_random(loaded, lambda: create_network(name, zoo, own, image_size, needs_classifier=classifies))
    # Nothing else of the file is needed, which stays mapped as long as one of its tensors is.
    loaded.tensors = {}
    device = device or torch.device("cpu")
    # Other devices hold copies.
    file = MappedFile(loaded.file) if mapped and loaded.file and device.type == "cpu" else None
    loaded.checksum = checksum_of(network.state_dict())
    if not classifies:
        loaded.normalization += (
            f"; the student learns its {describe(network, kind)} feature ({width} numbers), not its logits"
        )
    if image_size != config.data.image_size:
        loaded.normalization += f"; sees images of {image_size} pixels"
    method, chunk = config.method, networks.teacher_chunk
    with naming("teacher", name):
        frozen = FrozenTeacher(
            *(network, student or network, device, precision, chunk, kind, width, image_size, classifies),
            *(method.dense_grid, method.dense_layer),
        )
        check_repeats(name, frozen.model, kind, image_size, precision)
    frozen.loaded, frozen.mapped = loaded, file
    return frozen


# Parameters of a teacher whose file is mapped. The random initialization of smaller ones precedes the one of the head:
# without it, no run could be repeated that an earlier version trained.
LARGE = 2**25


def _is_mapped(name: str, found: Weights, allow_partial: bool) -> bool:
    """Return whether a teacher's parameters are mapped from its file into memory, and not copied."""
    large = sum(value.numel() for value in found.values()) > LARGE
    return large and not allow_partial and not is_foreign(name) and not is_foundation(name)


def _stored_teacher(config: Config, stored: StoredWeights, student: nn.Module, device: torch.device) -> FrozenTeacher:
    method, networks = config.method, config.networks
    if method.needs_classifier(config):
        reason = f"{method.name} learns from the teacher's classifier, which is not stored with its features"
        raise InvalidSetting("images", getattr(config.data, "images", ""), f"{reason}; {FEATURES_ALONE}")
    if method.dense_grid and not stored.map_width:
        raise InvalidSetting("dense_grid", method.dense_grid, "no maps are stored; leave it out")
    grid, layer = method.dense_grid, method.dense_layer
    return StoredTeacher(networks.teacher or "", stored, student, device, networks.teacher_feature, grid, layer)


# The values of `teacher_feature` that the teacher's classifier takes as input.
READABLE = ("auto", "pooled")


def _refuse_classless(config: Config, own: int, num_classes: int, found: Weights | None) -> None:
    """Raise InvalidSetting: the method needs the teacher's classifier, and the teacher does not classify the data."""
    name, able = config.method.name, FEATURES_ALONE if config.data.unlabeled else FEATURES_AND_LABELS
    if not config.method.needs_classifier(config.changed(label_fraction=1.0)):
        raise InvalidSetting(
            "label_fraction",
            config.data.label_fraction,
            f"{name} gives images without a label the teacher's probabilities, and this teacher does not classify the "
            "data; keep all labels, name a teacher that does, or choose feature, srd or vkd",
        )
    if config.networks.teacher_feature not in READABLE:
        raise InvalidSetting(
            "teacher_feature",
            config.networks.teacher_feature,
            f"{name} learns from the teacher's classifier, which takes the pooled feature; {able}",
        )
    if not config.networks.teacher_classifier:
        raise InvalidSetting("teacher_classifier", False, f"{name} learns from the classifier; leave it out; {able}")
    if own and found:
        raise InvalidSetting(
            "teacher_weights",
            config.networks.teacher_weights,
            f"the weights have {own} classes, the data set has {num_classes}; choose the `dataset` that they were "
            f"trained on, or other weights; {able}",
        )
    raise InvalidSetting(
        "teacher",
        config.networks.teacher,
        f"{name} learns from a classifier, and this network does not have one; {able}",
    )


def _own_classes(
    found: Weights | None, name: str, zoo: Zoo, num_classes: int, image_size: int, size_field: str
) -> tuple[int, bool]:
    """Return the number of outputs of the teacher's classifier, 0 without one, and whether its file has them."""
    if is_foundation(name):
        return 0, True
    if found and found.published:
        return found.published.num_classes, True
    timm_name = zoo.in_timm(name)
    cfg = timm.models.get_pretrained_cfg(timm_name) if timm_name and timm.is_model(timm_name) else None
    stated = cfg.num_classes if cfg and name.startswith("timm/") else num_classes
    if not found:
        # Random weights: a network with a classifier gets one for the classes of the data.
        return _projection(name, zoo) or (num_classes if stated else 0), True
    create = partial(create_network, name, zoo, num_classes or 1, image_size, False, size_field)
    with torch.random.fork_rng(devices=[]):
        network = create() if is_foreign(name) else created_empty(create)
    rows = checkpoint.classifier_rows(network, checkpoint.backbone_weights(found))
    return ((num_classes if stated else 0), False) if rows is None else (rows, True)


def _projection(name: str, zoo: Zoo) -> int:
    """Return the width of the projection that timm publishes a network with, or 0."""
    timm_name = zoo.in_timm(name)
    cfg = timm.models.get_pretrained_cfg(timm_name) if timm_name and timm.is_model(timm_name) else None
    return projection_width(cfg.to_dict()) if cfg else 0


def find_weights(
    role: Literal["student", "teacher"], name: str, weights: str | None, zoo: Zoo, fetch: bool = True
) -> Weights | None:
    """Return the tensors of a network's weights; None for random weights or a network that loads them itself.

    Args:
        fetch: allow downloads from the hub.

    Raises:
        MissingFile: the weights do not exist.
        UserError: the weights cannot be read.
    """
    field = f"{role}_weights"
    if weights in (None, RANDOM) or StoredWeights.named(weights):
        return None
    if is_foundation(name):
        raise InvalidSetting(field, weights, f"{name} loads its weights itself; leave it out")
    if weights == TIMM and name.startswith("timm/"):
        with naming(role):
            known_in_timm(name, zoo)
    with naming(field):
        return _find(name, weights, zoo, fetch)


def _fill(
    loaded: LoadedNetwork,
    found: Weights,
    field: str,
    weights: str | None,
    image_size: int,
    allow_partial: bool | None,
    needs_classifier: bool = False,
    initial: bool = False,
) -> None:
    with naming(field):
        tensors = found.published.read(found, image_size) if found.published else found
        plain = checkpoint.backbone_weights(tensors)
        summary = checkpoint.load_weights(loaded.network, plain, str(weights), allow_partial, needs_classifier, initial)
    loaded.file, loaded.trained, loaded.tensors = found.file, True, tensors
    loaded.loaded = f"{summary} from {found.file}{found.note}"


def _refuse_random(built: LoadedNetwork, create: Callable[[], nn.Module]) -> None:
    """Raise InvalidSetting if a user's function returns other weights at each call: they are random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed() + 1)
        again = create().state_dict()
    changed = [name for name, value in built.network.state_dict().items() if not torch.equal(value, again[name])]
    if changed:
        raise InvalidSetting(
            "teacher",
            built.name,
            f"its weights are random: {len(changed)} of {len(again)} tensors, such as "
            f"{changed[0]}, change from call to call; load trained weights in the function, or give `teacher_weights`",
        )


def _accept_as_created(built: LoadedNetwork, field: str, weights: str | None) -> None:
    """Check that the weights of a new network are finite, and record where they come from."""
    with naming(field):
        check_finite(built.network.state_dict(), built.name)
    if is_foreign(built.name):
        built.loaded, built.trained = f"the weights of {built.name}", weights is None


def _normalize(network: nn.Module, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> str:
    """Set the normalization of a network's images, if given; return a note for the plan if it is not the network's."""
    cfg = network.pretrained_cfg
    source = "" if mean and std else cfg.get("normalization", "")
    if not source and not mean and not std:
        return ""
    cfg = network.pretrained_cfg = {**cfg, "mean": mean or cfg["mean"], "std": std or cfg["std"]}
    values = f"; images with mean {_numbers(cfg['mean'])} and std {_numbers(cfg['std'])}"
    return f"{values}, {source}" if source else values


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _find(name: str, weights: str, zoo: Zoo, fetch: bool) -> Weights:
    published = None
    if weights != TIMM:
        file = checkpoint.weights_file(weights)
        if not file.exists() and "pretrained" in file.parts:
            raise MissingFile(weights, f"{no_such(weights)}; {zoo.remedy.format(name=name)}")
    elif timm_names.is_source(name):
        file = timm_names.find(name, timm_names.WEIGHTS, fetch)
    else:
        published = timm_weights.published(name, zoo.in_timm(name))
        found = published.at_hand() or (published.fetch() if fetch else None)
        if not found:
            raise published.absent()
        file = found
    tensors = checkpoint.read_weights(weights if weights != TIMM else file)
    tensors.file, tensors.published = file, published
    return tensors
