"""Weights and checkpoints: atomic save; tensors by name out of safetensors files and those that torch.save wrote, and
the networks that they fill. Other files are refused by what they are. Nothing is unpickled into code."""

import argparse
import hashlib
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting, InvalidValue, MissingFile, PassingFault, no_such
from gendd.core.files import reason_of
from gendd.core.retry import retried
from gendd.networks.adapt import as_timm_reads, of_one_network
from gendd.networks.create import classifier_name
from gendd.networks.file_format import is_safetensors, is_torch, what_it_is

if TYPE_CHECKING:
    from gendd.networks.timm_weights import Published

Tensors = dict[str, Tensor]
WRAPPERS = ("module.", "_orig_mod.")
# Where files keep their tensors, and their average; the first that is there counts.
CONTAINERS = ("model", "state_dict", "model_state_dict", "net", "network", "module", "params")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "params_ema")
# Batch norm's counter of batches. Files from before PyTorch 0.4.1 have none, and torch takes them as whole.
COUNTER = "num_batches_tracked"
# Names in published GenDD checkpoints and ours.
PUBLISHED = {
    "model.": "backbone.",
    "cls_projector.0.": "norm.",
    "diffloss.net.": "head.net.",
    "classifier.": "classifier.",
}


class Weights(dict[str, Tensor]):
    """The named tensors of a file.

    Attributes:
        note: which they are where the file holds several, for the plan.
        published: what timm publishes them as (`hub.Published`), if it does.
    """

    note = ""
    file: Path | None = None
    published: "Published | None" = None


def read(path: Path) -> dict:
    """Return the content of a checkpoint file, as `read_any` does.

    Raises:
        InvalidValue: it holds something else than named values, too.
    """
    content = read_any(path)
    if not isinstance(content, dict):
        raise InvalidValue(path, f"holds a {type(content).__name__}, not named tensors; save a state_dict")
    return content


def read_any(path: Path) -> object:
    """Return the content of a file: safetensors, or torch's format with tensors and plain values only.

    Raises:
        MissingFile: no such file.
        InvalidValue: an archive, a truncated file, or one that only runs code would read.
        PassingFault: the disk failed at each try.
    """
    if not path.is_file():
        raise MissingFile(path, f"{no_such(path)}; check the path")
    try:
        return retried(lambda: _content(path), path)
    except (InvalidValue, PassingFault):
        raise
    except Exception as error:  # The readers raise almost anything at damaged files.
        unsafe = isinstance(error, pickle.UnpicklingError)
        if unsafe and is_torch(path):
            raise InvalidValue(
                path,
                f"holds more than tensors and plain values{_objects(path)}, which is not loaded for "
                "safety; save its state_dict alone",
            ) from error
        # What torch says of an unsafe file is how to run it.
        reason = "" if unsafe else f" ({reason_of(error)})"
        raise InvalidValue(path, f"truncated or no checkpoint{reason}; fetch or write it again") from error


def _content(path: Path) -> object:
    if is_safetensors(path):
        return safetensors.torch.load_file(path)
    foreign = what_it_is(path)
    if foreign:
        raise InvalidValue(path, f"no checkpoint but {foreign}")
    # Published `_last.pth` files hold the argparse.Namespace of their command line.
    # Of a file, not a path: by the ending of that, torch would choose a reader of its own.
    with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def tensor_names(path: Path) -> list[str]:
    """Of a safetensors file."""
    with safetensors.safe_open(path, "pt") as file:
        return list(file.keys())


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors; of another file, nothing."""
    if not path.is_file() or not is_safetensors(path):
        return {}
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata() or {}


def _objects(path: Path) -> str:
    """The classes of what makes a file unsafe, in brackets, where torch can name them."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # It reads zip archives of torch.save alone.
        return ""
    return f" ({', '.join(names[:3])})" if names else ""


def weights_file(path: str | Path) -> Path:
    """The file that holds the weights: of a run folder its last checkpoint, else the path itself."""
    path = Path(path)
    return path / "checkpoints" / "last.pt" if path.is_dir() else path


def read_weights(path: str | Path) -> Weights:
    """Named tensors of a weight file or run folder, whatever wraps them, by this project's names; of a run's trained
    and averaged weights, those that it reports, of a file's of others the averaged ones, as timm does."""
    content = read(weights_file(path))
    return weights_in(content, path, reported_weights(content))


def reported_weights(content: dict) -> str:
    """ "trained" or "ema", the weights that a checkpoint's run reports, or that stand for a file of others."""
    averaged = any(isinstance(content.get(name), dict) for name in AVERAGES)
    return "ema" if averaged or content.get("reported") == "ema" else "trained"


def weights_in(content: dict, path: str | Path, weights: str) -> Weights:
    """The tensors of `read_weights` in the content of a file, the "trained" ones or their average, "ema"."""
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
    """The one entry of a file that holds named tensors.

    Raises:
        InvalidValue: no entry does, or several do.
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
    """Whether an entry of a file is a tensor that can fill one of a network: not one of an optimizer, whose names are
    numbers, nor a sparse one, nor a shape alone, on the meta device."""
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
    """The plain network among the tensors of a distilled student; the tensors themselves if they are one."""
    inner = {name.removeprefix("backbone."): value for name, value in tensors.items() if name.startswith("backbone.")}
    return inner or tensors


def load_weights(
    module: nn.Module,
    tensors: Tensors,
    source: str,
    allow_partial: bool | None = None,
    needs_classifier: bool = False,
) -> str:
    """Fill a network, or a student around one, from tensors by its own names or those it is published under.

    Args:
        allow_partial: whether some may be missing, left over or of another shape; None: no, and --allow-partial is no
            flag of the program.
        needs_classifier: whether the classifier must be among them, whatever is allowed.

    Returns:
        "n of m tensors loaded", for the plan, with what was done to them.

    Raises:
        InvalidValue: made for another class count, tensors that do not fit and must, or values that are not finite.
    """
    expected = module.state_dict()
    tensors, notes = of_one_network(expected, tensors, source)
    for path, network in module.named_modules():
        if hasattr(network, "get_classifier"):
            prefix = f"{path}." if path else ""
            tensors = _by_own_names(network, prefix, tensors)
            _check_classes(network, prefix, tensors, source)
            tensors, resized = as_timm_reads(network, prefix, tensors)
            notes += resized
    fitting = {
        name: value for name, value in tensors.items() if name in expected and value.shape == expected[name].shape
    }
    missing = [name for name in expected if name not in tensors]
    counters = {name for name in missing if name.replace(COUNTER, "running_mean") in fitting and COUNTER in name}
    if counters:
        missing = [name for name in missing if name not in counters]
        notes.append(f"{len(counters)} {COUNTER}, which old files lack, left at 0")
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
        problems.insert(0, f"no classifier ({', '.join(lost)}), without which a teacher teaches nothing")
    check_finite(fitting, source)
    if not fitting or lost or (problems and not allow_partial):
        remedy = ", or `allow_partial`" if fitting and not lost and allow_partial is not None else ""
        raise InvalidValue(
            source,
            f"{summary}: {'; '.join(problems[:4])}; give the network and class count it was trained with{remedy}",
        )
    module.load_state_dict(fitting, strict=False)
    return summary


def _by_own_names(network: nn.Module, prefix: str, tensors: Tensors) -> Tensors:
    """Tensors of the network at `prefix` by its own names. Files of others may call its modules as its
    `published_names` ({theirs: ours}) say, and its classifier, GenDD's linear probe, `fc`."""
    names, classifier = dict(getattr(network, "published_names", {})), classifier_name(network)
    if not hasattr(network, "fc") and f"{prefix}{classifier}.weight" not in tensors:
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
            f"made for {len(weight)} classes, the data set has {classes}; choose the `dataset` "
            "it was trained on, or other weights",
        )


def classifier_rows(network: nn.Module, tensors: Tensors) -> int | None:
    """For how many classes the tensors of a network are; None if they hold no classifier."""
    if not isinstance(network.get_classifier(), nn.Linear):
        return None
    tensors, _ = of_one_network(network.state_dict(), tensors, "weights")
    weight = _by_own_names(network, "", tensors).get(f"{classifier_name(network)}.weight")
    return None if weight is None else len(weight)


def _lost_classifier(network: nn.Module, fitting: Iterable[str]) -> list[str]:
    """The classifier's tensors that are not among those that fit."""
    names = (f"{classifier_name(network)}.{name}" for name in network.get_classifier().state_dict())
    return [name for name in names if name not in fitting]


def check_finite(tensors: Tensors, source: str) -> None:
    """Refuse the tensors of a network that computes nothing but NaN.

    Raises:
        InvalidValue: a value is not finite.
    """
    floats = {name: value for name, value in tensors.items() if value.is_floating_point()}
    # isfinite does not know the 8-bit formats.
    broken = [name for name, value in floats.items() if not value.float().isfinite().all()]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise InvalidValue(source, f"{broken[0]}{more} holds values that are not finite; give other weights")


def checksum_of(tensors: Tensors) -> str:
    """SHA-256 of tensors: of their names in alphabetical order, each with its shape, type and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {list(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
