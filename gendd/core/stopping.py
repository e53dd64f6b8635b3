"""Handling of Ctrl-C and SIGTERM during a training."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C. Cluster schedulers and the launcher end programs with it."""


@contextlib.contextmanager
def saying_where(describe: Callable[[], str]) -> Iterator[None]:
    """Print the text of `describe` if Ctrl-C or SIGTERM stops the block."""
    process = os.getpid()

    def terminate(*_) -> None:
        if os.getpid() != process:  # A data worker, forked with this handler.
            end_by_sigterm()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{describe()}", file=sys.stderr, flush=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def end_by_sigterm() -> None:
    """End this process by SIGTERM, without its handler."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
