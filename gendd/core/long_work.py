"""Work of which one process may have much more than the others."""

import time

import torch

from gendd.core.distributed import World, peer_timeout


class LongWork:
    """Lets processes that are done wait for the others, however long these work. A barrier fails after PEER_TIMEOUT.

    A process that still works says so several times within PEER_TIMEOUT. So the wait fails only if a process has
    vanished or is stuck. Until all processes are done, they must not communicate in any other way.
    """

    def __init__(self, world: World):
        self.world, self.period = world, peer_timeout() / 10
        self.said = time.monotonic()

    def go_on(self) -> None:
        """Say that this process still works. Call it after each short piece of work."""
        if time.monotonic() - self.said > self.period:
            self._all_done(False)

    def finish(self) -> None:
        """Wait until all processes are done."""
        while not self._all_done(True):
            pass

    def _all_done(self, done: bool) -> bool:
        result = self.world.all_true(torch.tensor(done, device=self.world.device))
        self.said = time.monotonic()
        return result
