"""Run trainings in parallel: on this machine's GPUs, on its CPU, or on a cluster."""

import contextlib
import fcntl
import os
import queue
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gendd.core.distributed import usable_cores, whole_number
from gendd.core.errors import PassingFault, UserError, naming
from gendd.core.extras import imported_extra
from gendd.core.files import rewrite_text
from gendd.runs.folder import RunFolder


@dataclass(frozen=True)
class Job:
    """A training.

    Args:
        name: name in printed messages.
        log: file for the output of the command.
    """

    name: str
    command: tuple[str, ...]
    log: Path

    def train(
        self,
        environment: dict[str, str],
        keep: Sequence[int] = (),
        started: Callable[[subprocess.Popen], None] = lambda process: None,
    ) -> str | None:
        """Run the command. Return the run's folder, "" if it does not print one (a dry run), or None if it failed.

        Args:
            keep: file descriptors that the command inherits and holds until it ends.
            started: called with the process.
        """
        found = environment.get("CUDA_VISIBLE_DEVICES") if environment.get("GPUS") == "1" else None
        gpu = f" on GPU {found}" if found else ""
        print(f"{self.name}: started{gpu}, {self.log}", flush=True)
        with open(self.log, "w") as log:
            process = subprocess.Popen(self.command, stdout=log, stderr=log, env=environment, pass_fds=keep)
            started(process)
            status = process.wait()
        lines = self.log.read_text(errors="replace").splitlines()
        if status:
            print(f"{self.name}: failed, {lines[-1] if lines else f'status {status}'}", flush=True)
            return None
        folders = [line.removeprefix("results in ") for line in lines if line.startswith("results in ")]
        print(f"{self.name}: {'complete' if folders else 'no run'}", flush=True)
        return folders[-1] if folders else ""


Folders = dict[Job, str | None]


def place_of(flags: list[str]) -> tuple[str | None, list[str]]:
    """Return the value of --on, None without it, and the other flags.

    Raises:
        UserError: another value than slurm or local.
    """
    flags = [word for flag in flags for word in (flag.split("=", 1) if flag.startswith("--on=") else [flag])]
    if "--on" not in flags:
        return None, flags
    at = flags.index("--on")
    place = flags[at + 1] if len(flags) > at + 1 else ""
    if place not in ("slurm", "local"):
        raise UserError(f"--on {place}: choose slurm, choose local to try the same on this machine, or leave it out")
    return place, flags[:at] + flags[at + 2 :]


@contextlib.contextmanager
def at_work(output: Path) -> Iterator[int]:
    """Lock the output folder, and yield the file descriptor of the lock.

    All runs inherit the descriptor. So the lock is held until the last of them ends, even if only this program is
    killed.

    Raises:
        UserError: runs of another command hold the lock.
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"OUTPUT {output}: runs of another command still write there; wait for them, or stop them"
            ) from None
        yield lock.fileno()


def train_all(jobs: Sequence[Job], output: Path, place: str | None, lock: int) -> Folders:
    """Train all jobs and return their folders in the same order. A failed job does not stop the others.

    Args:
        output: folder of the command's results.
        place: value of `place_of`.
        lock: file descriptor of `at_work`.
    """
    folders = train_on_cluster(jobs, output, place) if place else train_here(jobs, lock)
    return {job: folders[job] for job in jobs}


def all_runs(listed: Path, folders: Folders) -> tuple[str, ...]:
    """Return the run folders of this command, then the complete ones of earlier commands.

    Args:
        listed: file with one run folder per line, which this function updates.
    """
    earlier = listed.read_text().splitlines() if listed.exists() else []
    new = [folder for folder in folders.values() if folder]
    kept = [folder for folder in earlier if folder not in new and RunFolder(Path(folder)).result.exists()]
    runs = (*new, *kept)
    rewrite_text(listed, "".join(f"{folder}\n" for folder in runs))
    return runs


def refuse_failures(folders: Folders) -> None:
    """Raise PassingFault if some runs failed."""
    if failed := [str(job.log) for job, folder in folders.items() if folder is None]:
        raise PassingFault(
            f"{len(failed)} of the runs failed, see {' '.join(failed)}; correct the cause, "
            "then run the same command again"
        )


def found_gpus() -> list[str]:
    """Return the GPUs to use: the first GPUS of CUDA_VISIBLE_DEVICES; empty if CPU_PROCS is set."""
    if os.environ.get("CPU_PROCS"):
        return []
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return visible.split(",")[: whole_number(os.environ, "GPUS", count, least=0)] if count else []


def train_here(jobs: Sequence[Job], lock: int) -> Folders:
    """Train on this machine and return the folder of each run: one run at a time per GPU, or JOBS on the CPU."""
    gpus = found_gpus()
    at_once = len(gpus) or whole_number(os.environ, "JOBS", 1)
    environment = dict(os.environ)
    if not gpus and at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // at_once)))
    free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for gpu in gpus or [""] * at_once:
        free.put({"CUDA_VISIBLE_DEVICES": gpu, "GPUS": "1"} if gpu else {})

    def train(job: Job) -> str | None:
        place = free.get()
        try:
            return job.train(environment | place, (lock,))
        finally:
            free.put(place)

    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(jobs, pool.map(train, jobs), strict=True))


def train_on_cluster(jobs: Sequence[Job], output: Path, cluster: str) -> Folders:
    """Submit one Slurm job with one GPU per run, wait for all, and return the folder of each run.

    sbatch reads SBATCH_PARTITION, SBATCH_ACCOUNT and similar variables from the environment.

    Raises:
        UserError: submitit or Slurm is not installed, or Slurm rejects the jobs.
    """
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "--on slurm: sbatch or srun is not found; run the command on a machine with Slurm, or leave it out"
        )
    # The signal that makes a training save and stop.
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    with naming("on"):
        submitit = imported_extra("submitit", "slurm", cluster)
    executor = submitit.AutoExecutor(output / "cluster", cluster=cluster)
    hours = whole_number(os.environ, "HOURS", 72)
    executor.update_parameters(timeout_min=60 * hours, gpus_per_node=1 if cluster == "slurm" else 0, name="gendd")
    try:
        submitted = [executor.submit(OnCluster(job)) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"--on {cluster}: {error}; set SBATCH_PARTITION and similar variables as it requires") from None
    folders: Folders = {}
    for job, work in zip(jobs, submitted, strict=True):
        try:
            folders[job] = work.result()
        except Exception as error:  # Any failure of submitit or the cluster: the other runs continue.
            print(f"{job.name}: {str(error).splitlines()[-1]}", flush=True)
            folders[job] = None
    return folders


class OnCluster:
    """A job on a cluster's machine. submitit calls `checkpoint` when the machine is taken away."""

    def __init__(self, job: Job):
        self.job, self.process = job, 0

    def __call__(self) -> str | None:
        return self.job.train(dict(os.environ), started=self._note)

    def _note(self, process: subprocess.Popen) -> None:
        self.process = process.pid

    def checkpoint(self) -> Any:
        """Wait until the training has saved and ended. Return the job, to be submitted again."""
        from submitit.helpers import DelayedSubmission

        if self.process:
            os.kill(self.process, signal.SIGUSR1)
            # This interrupts `train`, which still waits for the process and needs its exit code.
            os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(OnCluster(self.job))
