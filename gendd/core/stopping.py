"""Handling of Ctrl-C, SIGTERM and SIGUSR1 during a training.

Schedulers and spot machines announce with SIGTERM or SIGUSR1 that they will take the machine away.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

# Exit code of a run that saved its state and should be started again (EX_TEMPFAIL of sysexits.h).
START_AGAIN = 75
# Seconds that a data worker lives on after SIGTERM.
GRACE = 60
REQUESTS = (signal.SIGTERM, signal.SIGUSR1)


class Preempted(KeyboardInterrupt):
    """The end of a training after SIGTERM or SIGUSR1."""


class Stopping:
    """The signals that ask this process to stop.

    Attributes:
        requested: a signal arrived while the training deferred it.
    """

    def __init__(self):
        self.process, self.requested, self.deferred, self.terminated = os.getpid(), False, False, False

    @contextlib.contextmanager
    def handling(self, describe: Callable[[], str]) -> Iterator[None]:
        """Raise Preempted in the block after a signal. Print the text of `describe` if a signal or Ctrl-C ends it.

        A block inside another one prints its text alone. Only the main thread can receive signals.
        """
        able = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self._receive) for number in REQUESTS if able}
        try:
            yield
        except KeyboardInterrupt as end:
            if not end.args and (text := describe()):
                print(f"\n{text}", file=sys.stderr, flush=True)
                end.args = (text,)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferring(self) -> Iterator[None]:
        """Let a signal only set `requested` in the block. A second SIGTERM still raises Preempted."""
        self.deferred = True
        try:
            yield
        finally:
            self.deferred = False

    def _receive(self, number: int, _) -> None:
        if os.getpid() != self.process:  # A process that was forked with this handler.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        again = number == signal.SIGTERM and self.terminated
        self.terminated |= number == signal.SIGTERM
        if not self.deferred or again:
            raise Preempted
        self.requested = True


def outlive_requests(_: int) -> None:
    """Let a data worker work on after a signal to all processes: the training still needs it for one step."""

    def later(*_) -> None:
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(GRACE)

    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, later)
