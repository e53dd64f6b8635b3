"""Lock of a folder, so that it has one writer: a run, a report or another program holds filelock's lease until it ends.

The lease does not need locks of the file system: the writer renews a file. If the writer was killed, another process
on the same machine sees it at once. On another machine it sees that the file no longer changes.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from gendd.core.errors import InvalidSetting, UserError

NAME = "writer.lock"
# Attempts to lock a folder that other writers remove, because they left it empty.
ATTEMPTS = 10
# Attempts to lock a folder that other writers remove meanwhile.
ATTEMPTS = 10
# A writer that has not renewed the lease for this many seconds counts as dead. It renews three times as often.
SILENCE = 30.0


class Busy(UserError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def sole_writer(folder: Path, setting: str = "runs", patience: float = 0.0) -> Iterator[None]:
    """Lock a folder against other writers. Create it if missing, and remove it again if it stays empty.

    Args:
        setting: the setting that chooses the folder.
        patience: seconds to wait for another writer.

    Raises:
        Busy: another process writes to the folder.
        UserError: the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lease = SoftFileLease(folder / NAME, lease_duration=SILENCE)
    writer = "another process"
    try:
        wait = patience
        if owner := lease.owner:
            writer = f"process {owner.pid} on {owner.hostname}"
            if owner.hostname != socket.gethostname():
                wait = max(patience, 1.5 * SILENCE)
                print(f"{folder}: waiting up to {wait:.0f} s to see whether {writer} still writes there", flush=True)
        _acquire(lease, folder, wait)
    except Timeout as error:
        raise Busy(
            f"{folder}: {writer} is writing there; wait until it ends, or stop it, then run the same command again "
            f"(if that process does not exist, delete {folder / NAME})"
        ) from error
    except OSError as error:
        raise InvalidSetting(setting, folder, f"cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        lease.release()
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _acquire(lease: SoftFileLease, folder: Path, wait: float) -> None:
    """Create and lock the folder. A writer that leaves it empty removes it, perhaps between these two steps."""
    for left in reversed(range(ATTEMPTS)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lease.acquire(timeout=wait)
            return
        except FileNotFoundError:
            if not left:
                raise
