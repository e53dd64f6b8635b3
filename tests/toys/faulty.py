"""Run gendd_cifar train with a last process that fails once within an epoch.

FAULT=kill kills it, FAULT=hang stalls it, FAULT=preempt sends it the signal of a scheduler.

The failing process creates the file FAULT_MARK.
"""

import os
import signal
import time
from pathlib import Path

from programs import train_cifar as main

from gendd.core.errors import run_program
from gendd.training.loop import Training

STEP = 25
train_step = Training.train_step


def fail_once(training: Training, *arguments) -> float:
    mark = Path(os.environ["FAULT_MARK"])
    if training.step == STEP and training.world.rank == training.world.size - 1 and not mark.exists():
        mark.write_text("failed")
        if os.environ["FAULT"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["FAULT"] == "preempt":
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            time.sleep(3600)
    return train_step(training, *arguments)


if __name__ == "__main__":
    Training.train_step = fail_once
    run_program(main)
