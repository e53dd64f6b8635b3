"""Processes that are done wait for one that works longer than PEER_TIMEOUT, but not for one that is stuck."""

import time
from functools import partial

from forked import ends_of_two

from gendd.core.distributed import join_world
from gendd.core.long_work import LongWork

TIMEOUT = 2


def work(pieces: int, seconds: float) -> None:
    """Work for `pieces` x `seconds` in the first process, while the other one is done."""
    with join_world() as world:
        long_work = LongWork(world)
        for _ in range(pieces if world.is_first else 0):
            time.sleep(seconds)
            long_work.go_on()
        ended = time.monotonic()
        long_work.finish()
        print(time.monotonic() - ended)


def test_process_waits_longer_than_the_timeout(tmp_path):
    ends = ends_of_two(partial(work, 40, 0.1), tmp_path, PEER_TIMEOUT=TIMEOUT)
    assert [end.code for end in ends] == [0, 0], ends[1].error
    first, other = (float(end.output) for end in ends)
    assert first < TIMEOUT < 3.5 < other


def test_process_without_any_work_ends_at_once(tmp_path):
    ends = ends_of_two(partial(work, 0, 0), tmp_path, PEER_TIMEOUT=TIMEOUT)
    assert [end.code for end in ends] == [0, 0] and all(float(end.output) < TIMEOUT for end in ends)


def test_process_that_is_stuck_ends_the_wait(tmp_path):
    ends = ends_of_two(partial(work, 1, 1.5 * TIMEOUT), tmp_path, PEER_TIMEOUT=TIMEOUT)
    assert ends[1].code == 1 and ends[1].error.startswith("error: lost another process")
