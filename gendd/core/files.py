"""Files that are written whole or not at all."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from gendd.core.errors import UserError
from gendd.core.retry import retried

GO_ON = "make room there, then give the same command again: it goes on from the last good checkpoint"


def save(path: Path, content: dict) -> None:
    """Write tensors and plain values, whole or not at all."""
    write_whole(path, lambda file: torch.save(content, file))


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all."""
    write_whole(path, lambda file: file.write(safetensors.torch.save(tensors, metadata)))


def write_whole(path: Path, write: Callable[[BinaryIO], object], shared: bool = False, remedy: str = GO_ON) -> None:
    """Have `write` fill a file so that `path` is at any time a whole file: the old one, then the new one.

    Args:
        shared: several processes may write the file at once: each has a temporary file of its own.
        remedy: what the user can do if it cannot be written.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
        PassingFault: the disk failed at each try.
    """
    try:
        retried(lambda: rewrite(path, write, shared), path, "written")
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: {reason_of(error)}; {remedy}") from error


def rewrite(path: Path, write: Callable[[BinaryIO], object], shared: bool = False) -> None:
    """`write_whole`, whose errors stay as they are."""
    temporary = path.with_name(f"{path.name}.tmp")
    if shared:
        _sweep(path.parent)
        temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):
            # torch.save puts words of its own in place of the disk's.
            raise error.__context__ from error
        raise


def _sweep(folder: Path) -> None:
    """Delete what killed processes of this machine left of files that several may write."""
    for path in folder.glob(f"*.{os.uname().nodename}.*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and not _runs(int(pid)):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def rewrite_text(path: Path, text: str) -> None:
    rewrite(path, lambda file: file.write(text.encode()))


def check_writable(path: Path, remedy: str) -> None:
    """Refuse a place where `write_whole` can put no file, before the work whose result it shall hold.

    Raises:
        UserError: its folder is missing or cannot be written, or it is a folder or a device itself.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            # A whole file takes the place of what is there, a device such as /dev/null too.
            special = path.exists() and not path.is_file()
            reason = ("it is a folder" if path.is_dir() else "it is no plain file") if special else None
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"cannot write {path}: {reason}; {remedy}")


def reason_of(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
