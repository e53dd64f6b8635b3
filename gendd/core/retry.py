"""Retries of reads, writes and downloads after a fault of a disk or a network."""

import errno
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gendd.core.errors import PassingFault
from gendd.core.terminal import printable

Result = TypeVar("Result")
# Seconds before each retry.
PAUSES = (1, 4, 16, 64)
# Errors that a retry does not cure: a missing, invalid or forbidden path, or a full disk.
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
# HTTP status codes of a server that is busy or broken.
BUSY = (408, 425, 429, *range(500, 600))


def may_pass(error: OSError) -> bool:
    """Return whether a retry may succeed. Errors of Pillow and gzip without an errno count as permanent."""
    # urllib's errors have `code`; the hub client's have `response`.
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return status in BUSY
    if error.errno is None:
        return isinstance(error, ConnectionError | TimeoutError)
    return error.errno not in LASTING


def retried(call: Callable[[], Result], name: str | Path, done: str = "read") -> Result:
    """Return the result of `call`; after a temporary fault, call it again up to four times, with growing pauses.

    Args:
        name: the file or address, for the messages.
        done: what `call` does with it, as a participle for the messages.

    Raises:
        OSError: a permanent fault.
        PassingFault: the last retry failed too.
    """
    for pause in (*PAUSES, None):
        try:
            return call()
        except OSError as error:
            if not may_pass(error):
                raise
            if pause is None:
                raise PassingFault(
                    f"{name} cannot be {done} ({error}), tried {len(PAUSES) + 1} times in {sum(PAUSES)} s; check the "
                    "disk or the network, then run the same command again; a training resumes from its last checkpoint"
                ) from error
            line = f"{name} cannot be {done} ({error}); trying again in {pause} s"
            print(printable(line), file=sys.stderr, flush=True)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")
