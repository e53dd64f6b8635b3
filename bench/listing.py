"""Seconds to list a folder of ten million images, and the memory that the list takes in each process.

    python bench/listing.py --processes 4

Only one folder holds files, which are empty; the others are links to it. So the file system answers from its cache, and
a disk or a network takes longer. The memory is the PSS: pages that several processes share count in equal parts.
"""

import multiprocessing
import re
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import tyro

from gendd.core.distributed import World, hardware
from gendd.core.seeding import BatchPlan, Shuffled
from gendd.data.batch import AsTheyAre, TrainingData
from gendd.methods.regression import Regression
from gendd_imagenet.family import FAMILY

BATCH = 1024


@dataclass(frozen=True)
class Config:
    """Time and memory of the list of a large folder."""

    processes: int = 1
    """Number of processes on this machine."""
    folders: int = 1000
    """Number of folders."""
    images: int = 10_000
    """Number of images per folder."""
    length: int = 60
    """Bytes per name."""


def main(config: Config) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, meeting, files = Path(folder, "data"), Path(folder, "meeting"), Path(folder, "files")
        _write(config, data, files)
        spawn = multiprocessing.get_context("spawn")
        processes = [
            spawn.Process(target=_measure, args=(rank, config.processes, data, files, meeting))
            for rank in range(config.processes)
        ]
        print(f"{config.folders * config.images} names of {config.length} bytes, {hardware(torch.device('cpu'))}")
        for process in processes:
            process.start()
        for process in processes:
            process.join()


def _write(config: Config, data: Path, files: Path) -> None:
    data.mkdir()
    files.mkdir()
    inner = config.length - len("00000/.jpg")
    for number in range(config.images):
        (files / f"{number:0{inner}}.jpg").touch()
    for number in range(config.folders):
        (data / f"{number:05}").symlink_to(files)


def _measure(rank: int, size: int, data: Path, files: Path, meeting: Path) -> None:
    world = World(rank, size, rank, torch.device("cpu"))
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    plan = BatchPlan(0, BATCH * size, rank, size)
    # Load all modules before the measurement.
    _open(files, plan, world)
    before = _memory("smaps_rollup", "Pss")
    begin, worked = time.perf_counter(), time.process_time()
    names = _open(data, plan, world).listing.names
    listed, work = time.perf_counter() - begin, time.process_time() - worked
    peak = _memory("status", "VmHWM") - _memory("status", "VmRSS")
    # A mapped page counts once it is read.
    assert names.text.max() and names.places.max()
    with _all_at(world):
        after = _memory("smaps_rollup", "Pss")
    order, begin = Shuffled(len(names)), time.process_time()
    order.locate(next(plan.micro_batches(0)))
    shuffled = time.process_time() - begin
    with _all_at(world):
        ordered = _memory("smaps_rollup", "Pss")
    print(
        f"process {rank}: listed in {listed:.1f} s ({work:.1f} s of CPU), names {after - before:.0f} MB, order of an "
        f"epoch {ordered - after:.0f} MB ({shuffled:.1f} s of CPU), {peak:.0f} MB more while listing",
        flush=True,
    )


def _open(folder: Path, plan: BatchPlan, world: World) -> TrainingData:
    config = FAMILY.config(Regression(contraction=0.0), images=str(folder)).resolved()
    return FAMILY.access.open_training(config, 0, plan, world, AsTheyAre())


@contextmanager
def _all_at(world: World):
    """Wait for all processes before and after the block."""
    world.barrier()
    yield
    world.barrier()


def _memory(file: str, field: str) -> float:
    """Return a field of this process's memory in MB."""
    return int(re.search(rf"^{field}:\s+(\d+)", Path("/proc/self", file).read_text(), re.M)[1]) * 1024 / 1e6


if __name__ == "__main__":
    main(tyro.cli(Config, description=Config.__doc__))
