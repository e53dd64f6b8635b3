"""Trying again what a passing fault of a disk or a network stopped."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gendd.core.errors import PassingFault

Result = TypeVar("Result")
# Seconds before each further try.
PAUSES = (1, 4, 16, 64)
# What the system reports of a path that is not there, is no such file or may not be used, and of a disk that is full:
# it stays so.
LASTING = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
}
# Answers of a server that is too busy or out of order.
BUSY = (408, 425, 429, *range(500, 600))


def may_pass(error: OSError) -> bool:
    """Whether the same call may succeed later. Pillow's and gzip's own errors, which have no number, do not pass."""
    # urllib's answers, and the hub's client's.
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return status in BUSY
    if error.errno is None:
        return isinstance(error, ConnectionError | TimeoutError)
    return error.errno not in LASTING


def retried(call: Callable[[], Result], name: str | Path, done: str = "read") -> Result:
    """What `call` returns; after a fault that may pass it is called again, a few times, with growing pauses.

    Args:
        done: what the call does with what is called `name`.

    Raises:
        OSError: a fault that does not pass.
        PassingFault: the last try failed too.
    """
    for pause in (*PAUSES, None):
        try:
            return call()
        except OSError as error:
            if not may_pass(error):
                raise
            if pause is None:
                raise PassingFault(
                    f"{name} cannot be {done} ({error}), tried {len(PAUSES) + 1} times in {sum(PAUSES)} s; mend the "
                    "disk or the network and give the same command again: a training goes on from its last checkpoint"
                ) from error
            print(f"{name} cannot be {done} ({error}); trying again in {pause} s", file=sys.stderr, flush=True)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")
