"""Agreement of all processes on the step at which to save or stop."""

from datetime import timedelta

import torch
import torch.distributed as dist

from gendd.core.distributed import World, peer_timeout

# What a process can ask for; the largest wins.
NOTHING, SAVE, STOP = range(3)


class Agreement:
    """Exchange of requests between the processes, once per step, without waiting for it.

    The exchange runs on the CPU while the next step computes. So all processes get the same answer at the same step,
    one step after the request.
    """

    def __init__(self, world: World):
        self.group: dist.ProcessGroup | None = None
        if world.size > 1:
            self.group = dist.new_group(backend="gloo", timeout=timedelta(seconds=peer_timeout()))
        self.sent = torch.tensor(NOTHING)
        self.work: dist.Work | None = None

    def exchange(self, request: int) -> int:
        """Send this step's request. Return the largest of the last step; with one process, of this step."""
        if self.group is None:
            return request
        answer = self._answer()
        self.sent = torch.tensor(request)
        self.work = dist.all_reduce(self.sent, dist.ReduceOp.MAX, group=self.group, async_op=True)
        return answer

    def decide(self, request: int) -> int:
        """Return the largest request of this step, after waiting for all processes."""
        answer = self.exchange(request)
        return answer if self.group is None else self._answer()

    def _answer(self) -> int:
        if self.work is None:
            return NOTHING
        self.work.wait()
        self.work = None
        return int(self.sent)
