"""Values that one process per machine builds and the others map: equal, separate after changes, safe after a kill."""

import multiprocessing
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gendd.core import shared as shared_module
from gendd.core.distributed import World
from gendd.core.errors import UserError
from gendd.core.shared import shared
from gendd.data.names import Names
from gendd_imagenet.folders import Listing

FORK = multiprocessing.get_context("fork")
NAMES = [b"a/%d.jpg" % number for number in range(5000)]
LABELS = torch.arange(len(NAMES)) % 7


def listing():
    return Listing(Path("folder"), Names.of(NAMES), LABELS.clone(), ("x", None), Counter({".txt": 2}))


@pytest.fixture
def among(tmp_path):
    """Return a function that runs work(world, build) in processes with these local ranks, and returns the results.

    The second result is the number of times that `build`, which each process may call, was called.
    """

    def run(work, local_ranks, value=listing):
        calls, results = tmp_path / "calls", FORK.SimpleQueue()
        store, size = f"file://{tmp_path}/store", len(local_ranks)

        def build():
            with open(calls, "a") as file:
                file.write("x")
            return value()

        def process(rank):
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
            results.put((rank, work(World(rank, size, local_ranks[rank], torch.device("cpu")), build)))

        processes = [FORK.Process(target=process, args=(rank,)) for rank in range(size)]
        for started in processes:
            started.start()
        for started in processes:
            started.join()
        found = {}
        while not results.empty():
            rank, found[rank] = results.get()
        return found, len(calls.read_text())

    return run


def same(value):
    """Return whether a listing equals the one that was built."""
    return (
        list(value.names) == NAMES
        and torch.equal(value.labels, LABELS)
        and (value.root, value.classes, value.passed_over) == (Path("folder"), ("x", None), {".txt": 2})
    )


def is_mapped_and_same(world, build):
    value = shared(world, build)
    return same(value), "memfd:gendd-" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("local_ranks", "calls"), [((0, 1, 2), 1), ((0, 1, 0, 1), 2), ((0, 0), 2)])
def test_first_process_of_each_machine_builds(among, local_ranks, calls):
    found, called = among(is_mapped_and_same, local_ranks)
    assert found == dict.fromkeys(range(len(local_ranks)), (True, True)) and called == calls


def test_one_process_keeps_what_it_built():
    value = object()
    assert shared(World(0, 1, 0, torch.device("cpu")), lambda: value) is value


def test_changes_of_one_process_stay_in_it(among):
    def work(world, build):
        value = shared(world, build)
        if world.rank == 1:
            value.labels[:] = -1
            value.names.text[:] = 0
        world.barrier()
        return same(value)

    assert among(work, (0, 1, 2))[0] == {0: True, 1: False, 2: True}


def test_memory_outlives_a_killed_creator(among):
    def work(world, build):
        value = shared(world, build)
        world.barrier()
        if world.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return same(value)

    assert among(work, (0, 1, 2))[0] == {1: True, 2: True}


def test_memory_that_cannot_be_mapped_is_built_again(among, monkeypatch):
    # As if the process with this number was one of another machine.
    monkeypatch.setattr(shared_module, "_name", lambda number: f"of {os.getpid()}.")
    found, called = among(lambda world, build: same(shared(world, build)), (0, 1, 2))
    assert found == dict.fromkeys(range(3), True) and called == 3


def test_every_process_raises_the_error_of_the_first(among):
    def refuse():
        raise UserError("no such folder")

    def work(world, build):
        with pytest.raises(UserError, match="no such folder"):
            shared(world, build)
        return True

    found, called = among(work, (0, 1), refuse)
    # The first process calls it twice.
    assert found == {0: True, 1: True} and called == 3


def test_arrays_of_any_shape_are_shared(among):
    def value():
        return np.zeros(0), torch.zeros(0), np.arange(6).reshape(2, 3).T, torch.eye(3)[:, 1:], torch.ones(3) > 0

    def work(world, build):
        ours = value()
        return [
            np.array_equal(one, other) and one.dtype == other.dtype
            for one, other in zip(shared(world, build), ours, strict=True)
        ]

    assert among(work, (0, 1), value)[0] == {0: [True] * 5, 1: [True] * 5}
