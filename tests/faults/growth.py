"""Memory, open files and threads of a long training: flat between 1,000 and 10,000 steps."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from digits import Runs
from forked import Forked
from rows import Row, tested

from gendd.training.loop import Training

# Greatest growth: memory in MB, then a number.
MOST = {"memory (MB)": 20, "open files": 0, "threads": 0}


def growth(folder: Path, short: bool) -> Iterator[Row]:
    steps = (90, 180) if short else (1_000, 10_000)
    runs, report, train_step = Runs(folder), folder / "sizes.json", Training.train_step
    # 18 steps are an epoch, with a checkpoint and an evaluation.
    command = runs.command(folder / "run", "--epochs", str(steps[1] // 18 + 1))
    found: list[dict] = []

    def measured(self, *arguments):
        if self.step in steps:
            self.checkpoints.wait()  # Its file is open while it is written.
            found.append(sizes())
            report.write_text(json.dumps(found))
        return train_step(self, *arguments)

    def problems() -> Iterator[str]:
        with patch.object(Training, "train_step", measured):
            ended = Forked(command, folder).wait(patience=3600)
        if ended.code:
            yield ended.error
            return
        found.extend(json.loads(report.read_text()))
        for name, most in MOST.items():
            grown = found[1][name] - found[0][name]
            yield f"{name} grew by {grown}" if grown > most else ""

    row = tested(f"A run of {steps[1]:,} steps grows in neither memory, open files nor threads", problems())
    figures = (f"{name} {' and '.join(str(one[name]) for one in found)}" for name in MOST)
    yield Row(**{**vars(row), "figure": f"at {steps[0]:,} and {steps[1]:,} steps: {', '.join(figures)}"})


def sizes() -> dict[str, int]:
    """Return the size of this process."""
    # A thread that was joined stays in this list for a moment: what a leak leaves behind stays for ever.
    threads = []
    for _ in range(20):
        threads.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.01)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory (MB)": pages * os.sysconf("SC_PAGE_SIZE") >> 20,
        "open files": len(os.listdir("/proc/self/fd")),
        "threads": min(threads),
    }
