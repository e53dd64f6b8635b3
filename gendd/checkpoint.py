"""Weights and checkpoints: atomic save, and every format that weights come in. Nothing is unpickled into code."""

import argparse
import contextlib
import hashlib
import os
import pickle
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from gendd.errors import UserError
from gendd.networks import classifier_name

Tensors = dict[str, Tensor]
GO_ON = "make room there, then give the same command again: it goes on from the last good checkpoint"
WRAPPERS = ("module.", "_orig_mod.")
# Names in published GenDD checkpoints and ours.
PUBLISHED = {
    "model.": "backbone.",
    "cls_projector.0.": "norm.",
    "diffloss.net.": "head.net.",
    "classifier.": "classifier.",
}


class Absent(UserError):
    """A file that is not there. A dry run lists it."""


def save(path: Path, content: dict) -> None:
    """Write tensors and plain values, whole or not at all."""
    write_whole(path, lambda file: torch.save(content, file))


def save_tensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    write_whole(path, lambda file: file.write(safetensors.torch.save(tensors, metadata)))


def write_whole(path: Path, write: Callable[[BinaryIO], object], ending: str = ".tmp", remedy: str = GO_ON) -> None:
    """Have `write` fill a file so that `path` is at any time a whole file: the old one, then the new one.

    Args:
        ending: of the temporary file beside it; where several processes may write the same, each needs its own.
        remedy: what the user can do if it cannot be written.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ending)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {_reason(error)}; {remedy}") from error


def check_writable(path: Path, remedy: str) -> None:
    """Refuse a place where `write_whole` can put no file, before the work whose result it shall hold.

    Raises:
        UserError: its folder is missing or cannot be written, or it is a folder itself.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            reason = "it is a folder" if path.is_dir() else None
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"cannot write {path}: {reason}; {remedy}")


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def read(path: Path, flag: str) -> dict:
    """Content of a checkpoint file: safetensors, or torch's format with tensors and plain values only.

    Raises:
        Absent: no such file.
        UserError: an archive, a truncated file, or one that only runs code would read.
    """
    if not path.is_file():
        raise Absent(f"{flag} {path}: no such file; check the path")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        if tarfile.is_tarfile(path):
            raise UserError(f"{flag} {path}: an archive, not a checkpoint; unpack it first: tar xf {path}")
        # Published `_last.pth` files hold the argparse.Namespace of their command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # The readers raise almost anything at damaged files.
        if isinstance(error, pickle.UnpicklingError) and _is_torch_file(path):
            raise UserError(
                f"{flag} {path}: holds more than tensors and plain values, which is not loaded for safety; save its "
                "state_dict alone"
            ) from error
        raise UserError(
            f"{flag} {path}: truncated or no checkpoint ({_reason(error)}); fetch or write it again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{flag} {path}: holds a {type(content).__name__}, not named tensors; save a state_dict")
    return content


def _is_torch_file(path: Path) -> bool:
    """Whether a file begins as torch.save begins one: a zip archive, or a pickle in the format before it."""
    with open(path, "rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", b"\x80\x02"))


def weights_file(path: str | Path) -> Path:
    """The file that holds the weights: of a run folder its last checkpoint, else the path itself."""
    path = Path(path)
    return path / "checkpoints" / "last.pt" if path.is_dir() else path


def read_weights(path: str | Path, flag: str) -> Tensors:
    """Named tensors of a weight file or run folder, whatever wraps them, by this project's names; of a run's trained
    and averaged weights, those that it reports."""
    content = read(weights_file(path), flag)
    return weights_in(content, flag, path, reported_weights(content))


def reported_weights(content: dict) -> str:
    """ "trained" or "ema", the weights that a checkpoint's run reports."""
    return "ema" if content.get("reported") == "ema" else "trained"


def weights_in(content: dict, flag: str, path: str | Path, weights: str) -> Tensors:
    """The tensors of `read_weights` in the content of a file, the "trained" ones or their average, "ema"."""
    if weights == "ema" and not isinstance(content.get("ema"), dict):
        raise UserError(f"--weights ema: {path} holds no averaged weights; train with --ema, or leave --weights out")
    for container in ("ema",) if weights == "ema" else ("model", "state_dict"):
        if isinstance(content.get(container), dict):
            content = content[container]
            break
    tensors = {_unwrapped(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{flag} {path}: holds no weights; expected named tensors, alone or under 'model' or 'state_dict'"
        )
    return _from_published(tensors)


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


def load_weights(module: nn.Module, tensors: Tensors, flag: str, source: str, allow_partial: bool = False) -> str:
    """Fill a network, or a student around one, from tensors by its own names or those it is published under.

    Returns:
        "n of m tensors loaded", for the plan.

    Raises:
        UserError: made for another class count, or, unless allowed, missing, left over or of another shape.
    """
    for path, network in module.named_modules():
        if hasattr(network, "get_classifier"):
            prefix = f"{path}." if path else ""
            tensors = _by_own_names(network, prefix, tensors)
            _check_classes(network, prefix, tensors, flag, source)
    expected = module.state_dict()
    stored, built = conditioning(tensors), conditioning(expected)
    if stored and built and stored != built:
        raise UserError(f"{flag} {source}: a head of --conditioning {stored}, not {built}; give that, or other weights")
    fitting = {
        name: value for name, value in tensors.items() if name in expected and value.shape == expected[name].shape
    }
    summary = f"{len(fitting)} of {len(expected)} tensors loaded"
    problems = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and name not in fitting
    ]
    missing = [name for name in expected if name not in tensors]
    left_over = [name for name in tensors if name not in expected]
    problems += [
        f"{len(names)} {what} ({', '.join(names[:3])}, ...)"
        for what, names in (("missing", missing), ("left over", left_over))
        if names
    ]
    if not fitting or (problems and not allow_partial):
        raise UserError(
            f"{flag} {source}: {summary}: {'; '.join(problems[:4])}; give the network and class count it was trained "
            "with" + (", or --allow-partial" if fitting else "")
        )
    module.load_state_dict(fitting, strict=False)
    return summary


def conditioning(tensors: Tensors) -> str | None:
    """The --conditioning of the head among the tensors; None where there is none."""
    projections = [name for name in tensors if ".adaLN_modulation." in name]
    if not projections:
        return None
    return "factored" if any(".adaLN_modulation.time." in name for name in projections) else "joint"


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


def _check_classes(network: nn.Module, prefix: str, tensors: Tensors, flag: str, source: str) -> None:
    classes, weight = network.get_classifier().out_features, tensors.get(f"{prefix}{classifier_name(network)}.weight")
    if weight is not None and len(weight) != classes:
        raise UserError(
            f"{flag} {source}: made for {len(weight)} classes, the data set has {classes}; choose the --dataset "
            "it was trained on, or other weights"
        )


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
