"""A run folder has one writer at a time: the first process of a run holds a file in it from its start to its end.

The system frees the lock of a process that ended, however it ended. Not every shared disk carries locks from one
machine to another; across machines, a writer is also known by its sign of life, the file's time, which it renews.
"""

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gendd.errors import UserError

NAME = "writer.lock"
# Seconds between signs of life, and without any until a writer is taken to be gone.
BEAT, SILENCE = 5, 30


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against other writers. It goes again if nothing was written to it.

    Raises:
        UserError: another process writes to it, or it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _held(folder / NAME)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); choose another place with --runs") from error
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(file, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        (folder / NAME).unlink(missing_ok=True)
        os.close(file)
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _held(path: Path) -> int:
    """The file, open, locked, and with this process's name in it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _refuse_another(file, path)
        if _is_there(file, path):
            os.truncate(file, 0)
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {now}".encode())
            return file
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return _held(path)


def _is_there(file: int, path: Path) -> bool:
    """Whether the path still names the file: a writer that ends takes it away."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _refuse_another(file: int, path: Path) -> None:
    locks = True
    try:
        # Not flock: processes that are forked to load data would keep it after a kill.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = False
    except (BlockingIOError, PermissionError):
        taken = True
    except OSError:
        locks = taken = False  # This disk has no locks.
    writer = os.pread(file, 1000, 0).decode(errors="replace")
    here = locks and f" on {socket.gethostname()} since " in writer
    if taken or (writer and not here and _lives(path, writer)):
        raise UserError(
            f"{path.parent}: {writer or 'another process'} is writing this run; wait until it ends, or end it, then "
            f"give the command again (if there is no such process, delete {path})"
        )


def _lives(path: Path, writer: str) -> bool:
    """Whether the file's time is renewed. (Clocks of machines are not compared.)"""
    print(f"{path.parent}: looking for {SILENCE} s whether {writer} still writes there", flush=True)
    with contextlib.suppress(FileNotFoundError):
        before, deadline = path.stat().st_mtime_ns, time.monotonic() + SILENCE
        while time.monotonic() < deadline:
            # Not by opening it: closing a file gives up this process's locks of it.
            if path.stat().st_mtime_ns != before:
                return True
            time.sleep(BEAT / 5)
    return False


def _beat(file: int, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        # A shared disk may stall for a while.
        with contextlib.suppress(OSError):
            os.utime(file)
