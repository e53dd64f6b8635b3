"""Reading of checkpoints and weight files, and loading of weights into networks.

The formats are safetensors and torch.save with tensors and plain values. No file can run code. The error for another
format names it.
"""

import argparse
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting, InvalidValue, MissingFile, PassingFault, no_such
from gendd.core.files import reason_of
from gendd.core.retry import retried
from gendd.networks.adapt import as_timm_reads, of_one_network
from gendd.networks.features import classifier_name, has_classifier
from gendd.networks.file_format import is_safetensors, is_torch, what_it_is
from gendd.networks.meta import fill
from gendd.networks.tensors import check_finite
from gendd.networks.timm_names import PLAIN

if TYPE_CHECKING:
    from gendd.networks.timm_weights import Published

Tensors = dict[str, Tensor]
WRAPPERS = ("module.", "_orig_mod.")
# Entries of a checkpoint that hold the tensors, and their moving average; the first that exists is used.
CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "params")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "params_ema")
# Batch norm's counter of batches. Files from before PyTorch 0.4.1 do not have it, and torch accepts them.
COUNTER = "num_batches_tracked"
# Prefixes in published GenDD checkpoints, and this project's prefixes.
PUBLISHED = {
    "model.": "backbone.",
    "cls_projector.0.": "norm.",
    "diffloss.net.": "head.net.",
    "classifier.": "classifier.",
}


def _number(kind: np.dtype, content: bytes) -> bool | int | float | complex:
    """Return a NumPy scalar of a file as a plain number. NumPy's own function also makes other objects.

    Raises:
        UnpicklingError: it is not a number.
    """
    if kind.kind not in "biufc":
        raise pickle.UnpicklingError(f"a NumPy scalar of type {kind}")
    return np.frombuffer(content, kind, count=1)[0].item()


# Beside tensors and plain values, the names that a file may contain for a NumPy scalar: NumPy 2 and 1.
NUMPY_SCALARS: list[Any] = [
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
    *(np.dtype, *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}),
]


class Weights(dict[str, Tensor]):
    """The named tensors of a file.

    Attributes:
        note: which tensors of the file these are, for the plan, if the file holds several sets.
        file: the file's path, if known.
        published: timm's publication of these weights (`timm_weights.Published`), or None.
    """

    note = ""
    file: Path | None = None
    published: "Published | None" = None


def read(path: Path) -> dict:
    """Return the named values of a checkpoint file.

    Raises:
        InvalidValue: the content is not a dictionary.
        MissingFile, InvalidValue, PassingFault: see `read_any`.
    """
    content = read_any(path)
    if not isinstance(content, dict):
        raise InvalidValue(path, f"holds a {type(content).__name__}, not named tensors; save a state_dict")
    return content


def read_any(path: Path) -> object:
    """Return the content of a file: safetensors, or torch's format with tensors and plain values only.

    Raises:
        MissingFile: the file does not exist.
        InvalidValue: the file is truncated, in another format, or needs unpickling, which can run code.
        PassingFault: every attempt to read the file failed.
    """
    if not path.is_file():
        raise MissingFile(path, f"{no_such(path)}; check the path")
    try:
        return retried(lambda: _content(path), path)
    except (InvalidValue, PassingFault):
        raise
    except Exception as error:  # The readers raise many kinds of errors at damaged files.
        unsafe = isinstance(error, pickle.UnpicklingError)
        if unsafe and is_torch(path):
            raise InvalidValue(
                path,
                f"holds more than tensors and plain values{_objects(path)}, which is not loaded for "
                "safety; save its state_dict alone",
            ) from error
        # torch's message for an unsafe file explains how to run its code.
        reason = "" if unsafe else f" ({reason_of(error)})"
        raise InvalidValue(path, f"truncated or no checkpoint{reason}; fetch or write it again") from error


def _content(path: Path) -> object:
    if is_safetensors(path):
        return safetensors.torch.load_file(path)
    foreign = what_it_is(path)
    if foreign:
        raise InvalidValue(path, f"no checkpoint but {foreign}")
    # Published `_last.pth` files hold the argparse.Namespace of their command line. Others hold an accuracy or an epoch
    # as a NumPy scalar.
    # Pass a file object: for a path, torch would choose the reader by the extension.
    with torch.serialization.safe_globals([argparse.Namespace, *NUMPY_SCALARS]), open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a safetensors file."""
    with safetensors.safe_open(path, "pt") as file:
        return list(file.keys())


def metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; {} for a missing or damaged file, or another format."""
    if not path.is_file() or not is_safetensors(path):
        return {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except safetensors.SafetensorError:
        return {}


def _objects(path: Path) -> str:
    """Return the unsafe classes in a file, in parentheses; "" if torch cannot list them."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # torch lists them for zip archives only.
        return ""
    return f" ({', '.join(names[:3])})" if names else ""


def weights_file(path: str | Path) -> Path:
    """Return the file that holds the weights of a run folder or a plain student's folder; otherwise the path itself."""
    path = Path(path)
    if not path.is_dir():
        return path
    plain = path / PLAIN
    return plain if plain.is_file() else path / "checkpoints" / "last.pt"


def read_weights(path: str | Path) -> Weights:
    """Read the named tensors of a weight file or run folder, without wrappers and with this project's names.

    For a run, read the weights that it reports. For other files prefer averaged weights, as timm does.
    """
    content = read(weights_file(path))
    return weights_in(content, path, reported_weights(content))


def reported_weights(content: dict) -> str:
    """Return "trained" or "ema": the weights that a run reports, or "ema" for another file that has averaged ones."""
    averaged = any(isinstance(content.get(name), dict) for name in AVERAGES)
    return "ema" if averaged or content.get("reported") == "ema" else "trained"


def weights_in(content: dict, path: str | Path, weights: str) -> Weights:
    """Return the "trained" or the averaged ("ema") weights in the content of a checkpoint.

    Args:
        path: the file's path, for error messages.
        weights: "trained" or "ema".

    Raises:
        InvalidSetting: averaged weights are requested, but missing.
        InvalidValue: the content holds either no set of named tensors or several.
    """
    containers = ("ema", *AVERAGES) if weights == "ema" else CONTAINERS
    container = next((name for name in containers if isinstance(content.get(name), dict)), None)
    if weights == "ema" and not container:
        raise InvalidSetting(
            "eval_weights",
            "ema",
            f"{path} holds no averaged weights; train with `ema_decay`, or leave `eval_weights` out",
        )
    tensors = _named_tensors(content[container] if container else content)
    if not tensors:
        container = _only_container(content, path)
        tensors = _named_tensors(content[container])
    found = Weights(_from_published(tensors))
    if weights == "ema":
        found.note = f", its averaged weights ({container})"
    elif container and container not in CONTAINERS:
        found.note = f", its weights under {container}"
    return found


def _named_tensors(entries: dict) -> Tensors:
    return {_unwrapped(name): value for name, value in entries.items() if _named(name, value)}


def _only_container(content: dict, path: str | Path) -> str:
    """Return the name of the only entry that holds named tensors.

    Raises:
        InvalidValue: no entry holds any, or several do.
    """
    holders = [name for name, entry in content.items() if isinstance(entry, dict) and _named_tensors(entry)]
    if not holders:
        raise InvalidValue(
            path, f"holds no weights; expected named tensors, alone or under one of {', '.join(CONTAINERS)}"
        )
    if len(holders) > 1:
        raise InvalidValue(
            path, f"holds named tensors under {', '.join(map(str, holders))}; save the state_dict of one alone"
        )
    return holders[0]


def _named(name: object, value: Any) -> bool:
    """Return whether an entry of a file is a named, dense tensor with values.

    Optimizer states have numbers as names; tensors on the meta device do not have values.
    """
    tensor = isinstance(name, str) and isinstance(value, Tensor)
    return tensor and value.layout == torch.strided and not value.is_meta


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _from_published(tensors: Tensors) -> Tensors:
    if "diffloss.net.input_proj.weight" not in tensors:
        return tensors
    renamed = {}
    for name, value in tensors.items():
        for theirs, ours in PUBLISHED.items():
            if name.startswith(theirs):
                renamed[ours + name.removeprefix(theirs)] = value
    return renamed


def backbone_weights(tensors: Tensors) -> Tensors:
    """Extract the backbone from the tensors of a distilled student; return the tensors of a plain network unchanged."""
    inner = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    return inner or tensors


def load_weights(
    module: nn.Module,
    tensors: Tensors,
    source: str,
    allow_partial: bool | None = None,
    needs_classifier: bool = False,
    initial: bool = False,
) -> str:
    """Load tensors into a network, or into a student that contains one.

    The tensors may have the network's names or the names under which it is published.

    Args:
        source: the file or setting that the tensors come from, for error messages.
        allow_partial: whether tensors may be missing, left over or of another shape. None: not allowed, and the
            program does not have the flag --allow-partial.
        needs_classifier: whether the classifier's tensors are needed even with `allow_partial`.
        initial: whether training starts from the tensors. The network then keeps its own classifier if they have none,
            or one for another number of classes.

    Returns:
        "n of m tensors loaded", with notes on conversions, for the plan.

    Raises:
        InvalidValue: the number of classes differs, needed tensors do not fit, or a value is not finite.
    """
    expected = module.state_dict()
    tensors, notes = of_one_network(expected, tensors, source)
    kept: list[str] = []
    for path, network in module.named_modules():
        if hasattr(network, "get_classifier"):
            prefix = f"{path}." if path else ""
            tensors = _by_own_names(network, prefix, tensors)
            if initial:
                tensors, kept, left_out = _with_fitting_classifier(network, prefix, tensors)
                notes += left_out
            else:
                _check_classes(network, prefix, tensors, source)
            tensors, resized = as_timm_reads(network, prefix, tensors)
            notes += resized
    fitting = {
        name: value for name, value in tensors.items() if name in expected and value.shape == expected[name].shape
    }
    missing = [name for name in expected if name not in tensors and name not in kept]
    counters = {name for name in missing if name.replace(COUNTER, "running_mean") in fitting and COUNTER in name}
    if counters:
        missing = [name for name in missing if name not in counters]
        notes.append(f"{len(counters)} {COUNTER} set to 0, as in old files")
    summary = f"{len(fitting)} of {len(expected)} tensors loaded" + (f" ({'; '.join(notes)})" if notes else "")
    lost = _lost_classifier(module, fitting) if needs_classifier else []
    problems = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and name not in fitting
    ]
    left_over = [name for name in tensors if name not in expected]
    problems += [
        f"{len(names)} {what} ({', '.join(names[:3])}, ...)"
        for what, names in (("missing", missing), ("left over", left_over))
        if names
    ]
    if lost:
        problems.insert(0, f"no classifier ({', '.join(lost)}), which the teacher needs")
    check_finite(fitting, source)
    if not fitting or lost or (problems and not allow_partial):
        remedy = ", or `allow_partial`" if fitting and not lost and allow_partial is not None else ""
        raise InvalidValue(
            source,
            f"{summary}: {'; '.join(problems[:4])}; give the network and class count it was trained with{remedy}",
        )
    fill(module, fitting)
    return summary


def _by_own_names(network: nn.Module, prefix: str, tensors: Tensors) -> Tensors:
    """Rename the tensors of the network at `prefix` to its own names.

    Published files may use the names in its `published_names` ({published: own}), and "fc" for its classifier.
    """
    names, classifier = dict(getattr(network, "published_names", {})), classifier_name(network)
    if classifier and not hasattr(network, "fc") and f"{prefix}{classifier}.weight" not in tensors:
        names["fc"] = classifier
    modules = {prefix + theirs: prefix + ours for theirs, ours in names.items()}
    renamed = {}
    for name, value in tensors.items():
        path, _, tensor = name.rpartition(".")
        renamed[f"{modules.get(path, path)}.{tensor}" if path else name] = value
    return renamed


def _check_classes(network: nn.Module, prefix: str, tensors: Tensors, source: str) -> None:
    if not isinstance(network.get_classifier(), nn.Linear):
        return
    classes, weight = network.get_classifier().out_features, tensors.get(f"{prefix}{classifier_name(network)}.weight")
    if weight is not None and len(weight) != classes:
        raise InvalidValue(
            source,
            f"the weights have {len(weight)} classes, the data set has {classes}; choose the `dataset` that they were "
            "trained on, or other weights",
        )


def _with_fitting_classifier(network: nn.Module, prefix: str, tensors: Tensors) -> tuple[Tensors, list[str], list[str]]:
    """Return the tensors without a classifier for other classes, the names that stay as created, and notes."""
    classes = network.get_classifier().out_features if has_classifier(network) else 0
    own = [f"{prefix}{classifier_name(network)}.{name}" for name in ("weight", "bias")]
    weight = tensors.get(own[0])
    if classes == (0 if weight is None else len(weight)):
        return tensors, [], []
    note = "without a classifier" if weight is None else f"without its classifier of {len(weight)} classes"
    return {name: value for name, value in tensors.items() if name not in own}, own, [note]


def classifier_rows(network: nn.Module, tensors: Tensors) -> int | None:
    """Return the number of outputs of the classifier in a network's weights; None without a classifier."""
    if not isinstance(network.get_classifier(), nn.Linear):
        return None
    tensors, _ = of_one_network(network.state_dict(), tensors, "weights")
    weight = _by_own_names(network, "", tensors).get(f"{classifier_name(network)}.weight")
    return None if weight is None else len(weight)


def _lost_classifier(network: nn.Module, fitting: Iterable[str]) -> list[str]:
    """Return the names of the classifier's tensors that are not in `fitting`."""
    names = (f"{classifier_name(network)}.{name}" for name in network.get_classifier().state_dict())
    return [name for name in names if name not in fitting]
