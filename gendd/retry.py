"""Reading again what a passing fault of a disk or a network kept from being read."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gendd.errors import PassingFault

Result = TypeVar("Result")
# Seconds before each further try.
PAUSES = (1, 4, 16, 64)
# What the system reports of a path that is not there, is no such file or may not be read: it stays so.
LASTING = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
}


def may_pass(error: OSError) -> bool:
    """Whether the same call may succeed later. Pillow's and gzip's own errors, which have no number, do not pass."""
    if error.errno is None:
        return isinstance(error, ConnectionError | TimeoutError)
    return error.errno not in LASTING


def retried(read: Callable[[], Result], name: str | Path) -> Result:
    """What `read` returns; after a fault that may pass it is called again, a few times, with growing pauses.

    Raises:
        OSError: a fault that does not pass.
        PassingFault: the last try failed too.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except OSError as error:
            if not may_pass(error):
                raise
            if pause is None:
                raise PassingFault(
                    f"{name} cannot be read ({error}), tried {len(PAUSES) + 1} times in {sum(PAUSES)} s; mend the disk "
                    "or the network and give the same command again: a training goes on from its last checkpoint"
                ) from error
            print(f"{name} cannot be read ({error}); trying again in {pause} s", file=sys.stderr, flush=True)
            time.sleep(pause)
