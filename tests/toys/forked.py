"""Programs in forked processes. The parent has imported everything, so a run takes a second instead of ten."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gendd.core.errors import run_program

# Seconds after which a process counts as hanging.
PATIENCE = 120.0


@dataclass(frozen=True)
class Ended:
    """The end of a process: its exit code, negative for a signal, its standard error and its standard output."""

    code: int
    error: str
    output: str

    @property
    def problem(self) -> str:
        """Return what is wrong with a failed program: it must print one line and exit with code 1 or 2."""
        lines = self.error.splitlines()
        errors = [line for line in lines if line.startswith("error:")]
        if self.code not in (1, 2) or len(errors) != 1 or any(line.startswith("Traceback") for line in lines):
            return f"exit code {self.code}, {' / '.join(lines[-2:]) or 'without a line'}"
        return ""


class Forked:
    """A function that runs in a forked process, as a program and with its own process group.

    Args:
        folder: folder for its output.
        variables: additional environment variables.
    """

    def __init__(self, work: Callable[[], object], folder: Path, **variables: object):
        sys.stdout.flush()
        number = time.monotonic_ns()
        self.logs = [folder / f"{name}-{number}" for name in ("stdout", "stderr")]
        with open(self.logs[0], "wb") as output, open(self.logs[1], "wb") as errors:
            self.pid = os.fork()
            if not self.pid:
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                self._run(work, variables)

    def _run(self, work: Callable[[], object], variables: dict[str, object]) -> None:
        try:
            os.setsid()
            os.environ.update({name: str(value) for name, value in variables.items()})
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # pytest replaces them.
            run_program(lambda: work() and None)
            sys.stdout.flush()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, patience: float = PATIENCE) -> Ended:
        """Wait for the end. Kill the process after `patience` seconds; its code is then SIGKILL's."""
        limit = time.monotonic() + patience
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > limit:
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.005)
        output, error = (log.read_text(errors="replace") for log in self.logs)
        for log in self.logs:
            log.unlink()
        return Ended(os.waitstatus_to_exitcode(found[1]), error, output)


def run(work: Callable[[], object], folder: Path, **variables: object) -> Ended:
    return Forked(work, folder, **variables).wait()


def run_in_two(work: Callable[[], object], folder: Path, **variables: object) -> None:
    """Run a function in two processes of one process group, and expect success."""
    ends = ends_of_two(work, folder, **variables)
    assert not any(end.code for end in ends), "\n".join(end.error for end in ends)


def ends_of_two(work: Callable[[], object], folder: Path, **variables: object) -> list[Ended]:
    """Run a function in two processes of one process group, with the environment that the launcher gives them."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "two"}
    both = [Forked(work, folder, CPU_PROCS=2, RANK=rank, LOCAL_RANK=rank, **group, **variables) for rank in range(2)]
    return [process.wait() for process in both]
