"""A run folder has one writer at a time: the first process of a run holds filelock's lease in it until the run ends.

The lease needs no locks of the disk: the writer renews its file. A writer that was killed on this machine is found at
once, one on another machine by a file that no longer changes.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease, Timeout

from gendd.core.errors import UserError

NAME = "writer.lock"
# Seconds without a renewal until a writer counts as gone. It renews three times as often.
SILENCE = 30.0


class Busy(UserError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against other writers. It goes again if nothing was written to it.

    Raises:
        Busy: another process writes to it.
        UserError: it cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lease = SoftFileLease(folder / NAME, lease_duration=SILENCE)
    writer = "another process"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        wait = 0.0
        if owner := lease.owner:
            writer = f"process {owner.pid} on {owner.hostname}"
            if owner.hostname != socket.gethostname():
                wait = 1.5 * SILENCE
                print(f"{folder}: waiting up to {wait:.0f} s to see whether {writer} still writes there", flush=True)
        lease.acquire(timeout=wait)
    except Timeout as error:
        raise Busy(
            f"{folder}: {writer} is writing this run; wait until it ends, or end it, then give the command again "
            f"(if that process does not exist, delete {folder / NAME})"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); choose another place with `runs`") from error
    try:
        yield
    finally:
        lease.release()
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
