"""Atomic writing of files, and their checksums."""

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

GO_ON = "free some space, then run the same command again; it resumes from the last good checkpoint"


def save(path: Path, content: dict) -> None:
    """Write tensors and plain values to a file, atomically."""
    write_whole(path, lambda file: torch.save(content, file))


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, atomically."""
    write_whole(path, lambda file: file.write(safetensors.torch.save(tensors, metadata)))


def write_whole(path: Path, write: Callable[[BinaryIO], object], shared: bool = False, remedy: str = GO_ON) -> None:
    """Write a file atomically: `write` fills a temporary file, which then replaces `path`.

    Args:
        shared: whether several processes may write the file at once; each then has a separate temporary file.
        remedy: what the user can do if the file cannot be written.

    Raises:
        UserError: the disk is full, or the folder is not writable.
        PassingFault: every attempt failed.
    """
    try:
        retried(lambda: rewrite(path, write, shared), path, "written")
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write {path}: {reason_of(error)}; {remedy}") from error


def rewrite(path: Path, write: Callable[[BinaryIO], object], shared: bool = False) -> None:
    """Write a file like `write_whole`, but once, and raise the original errors."""
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
            # torch.save replaces the system's error by a less specific one.
            raise error.__context__ from error
        raise


def _sweep(folder: Path) -> None:
    """Delete the temporary files that killed processes of this machine left in a shared folder."""
    for path in folder.glob(f"*.{os.uname().nodename}.*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and not _runs(int(pid)):
            path.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    """Return whether a process of this machine still runs."""
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
    """Check that `write_whole` can write to a path, before the work whose result it will hold.

    Raises:
        UserError: its folder is missing or not writable, or the path is a folder or a device.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            # `write_whole` would replace even a device such as /dev/null by a file.
            special = path.exists() and not path.is_file()
            reason = ("it is a folder" if path.is_dir() else "it is not a plain file") if special else None
    except OSError as error:
        reason = error.strerror
    if reason:
        raise UserError(f"cannot write {path}: {reason}; {remedy}")


def reason_of(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
