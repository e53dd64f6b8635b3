"""Trainings by scripts, several at a time: on this machine's GPUs, on its CPU, or on a cluster."""

import contextlib
import fcntl
import os
import queue
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch

from gendd.core.distributed import usable_cores, whole_number
from gendd.core.errors import PassingFault, UserError
from gendd.core.files import rewrite_text
from gendd.runs.folder import RunFolder

SCRIPTS = Path(__file__).resolve().parents[2] / "sh"


def explanation(script: str) -> str:
    """Return the comment that a script begins with."""
    lines = (SCRIPTS / script).read_text().splitlines()[1:]
    return "\n".join(
        line.removeprefix("#").removeprefix(" ") for line in takewhile(lambda line: line[:1] == "#", lines)
    )


@dataclass(frozen=True)
class Job:
    """One training, by a script's command.

    Args:
        name: for the user.
        log: what it prints goes there.
    """

    name: str
    command: tuple[str, ...]
    log: Path

    def train(self, environment: dict[str, str], keep: Sequence[int] = ()) -> str | None:
        """Run the command; the run's folder, "" if it names none (a dry run), None if it failed.

        Args:
            keep: file descriptors that the command inherits, and holds until it has ended.
        """
        gpu = f" on GPU {environment['CUDA_VISIBLE_DEVICES']}" if environment.get("GPUS") == "1" else ""
        print(f"{self.name}: begins{gpu}, {self.log}", flush=True)
        with open(self.log, "w") as log:
            status = subprocess.run(self.command, stdout=log, stderr=log, env=environment, pass_fds=keep).returncode
        lines = self.log.read_text(errors="replace").splitlines()
        if status:
            print(f"{self.name}: failed, {lines[-1] if lines else f'status {status}'}", flush=True)
            return None
        folders = [line.removeprefix("results in ") for line in lines if line.startswith("results in ")]
        print(f"{self.name}: {'complete' if folders else 'no run'}", flush=True)
        return folders[-1] if folders else ""


Folders = dict[Job, str | None]


def place_of(flags: list[str]) -> tuple[str | None, list[str]]:
    """What --on names, and the flags without it."""
    if "--on" not in flags:
        return None, flags
    at = flags.index("--on")
    place = flags[at + 1] if len(flags) > at + 1 else ""
    if place not in ("slurm", "local"):
        raise UserError(f"--on {place}: choose slurm, or local, which tries the same on this machine; or leave it out")
    return place, flags[:at] + flags[at + 2 :]


@contextlib.contextmanager
def at_work(output: Path) -> Iterator[int]:
    """Holds the folder's lock, whose descriptor all runs inherit: it is free once the last of them has ended, even if
    this program is killed alone."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"OUTPUT {output}: runs that report there are still at work; wait for them, or end them"
            ) from None
        yield lock.fileno()


def train_all(jobs: Sequence[Job], output: Path, place: str | None, lock: int) -> Folders:
    """What became of each, in their order; one that fails does not stop the others.

    Args:
        output: folder of whoever asks; lock: that of `at_work`. place: as `place_of` gives it.
    """
    folders = train_on_cluster(jobs, output, place) if place else train_here(jobs, lock)
    return {job: folders[job] for job in jobs}


def all_runs(listed: Path, folders: Folders) -> tuple[str, ...]:
    """Return the run folders of this command, then those of earlier commands that are still there.

    Args:
        listed: file of a line per run folder, which this function keeps.
    """
    earlier = listed.read_text().splitlines() if listed.exists() else []
    mine = [folder for folder in folders.values() if folder]
    theirs = [folder for folder in earlier if folder not in mine and RunFolder(Path(folder)).result.exists()]
    runs = (*mine, *theirs)
    rewrite_text(listed, "".join(f"{folder}\n" for folder in runs))
    return runs


def refuse_failures(folders: Folders) -> None:
    """
    Raises:
        PassingFault: some runs failed.
    """
    if failed := [str(job.log) for job, folder in folders.items() if folder is None]:
        raise PassingFault(
            f"{len(failed)} of the runs failed: {' '.join(failed)}; mend what their logs say and give the command again"
        )


def found_gpus() -> list[str]:
    """The GPUs to use: so many as GPUS says of CUDA_VISIBLE_DEVICES; none where CPU_PROCS asks for the CPU."""
    if os.environ.get("CPU_PROCS"):
        return []
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return visible.split(",")[: whole_number(os.environ, "GPUS", count, least=0)] if count else []


def train_here(jobs: Sequence[Job], lock: int) -> Folders:
    """Folder of each run; each GPU of this machine takes one at a time, or the CPU JOBS of them."""
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
    """Folder of each run, a job of Slurm's with a GPU (sbatch reads SBATCH_PARTITION, SBATCH_ACCOUNT and
    such from the environment), and this program waits for all.

    Raises:
        UserError: submitit or Slurm is not there, or Slurm does not take the jobs.
    """
    if cluster == "slurm" and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UserError(
            "--on slurm: sbatch or srun is not found; give the command on a machine of Slurm, or leave it out"
        )
    try:
        import submitit
    except ImportError:
        raise UserError(f"--on {cluster}: needs submitit; pip install submitit") from None
    executor = submitit.AutoExecutor(output / "cluster", cluster=cluster)
    hours = whole_number(os.environ, "HOURS", 72)
    executor.update_parameters(timeout_min=60 * hours, gpus_per_node=1 if cluster == "slurm" else 0, name="gendd")
    try:
        submitted = [executor.submit(train_there, job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"--on {cluster}: {error}; say in SBATCH_PARTITION and the like what it asks for") from None
    folders: Folders = {}
    for job, work in zip(jobs, submitted, strict=True):
        try:
            folders[job] = work.result()
        except Exception as error:  # Whatever submitit or the cluster ended it with: the other runs continue.
            print(f"{job.name}: {str(error).splitlines()[-1]}", flush=True)
            folders[job] = None
    return folders


def train_there(job: Job) -> str | None:
    """Run the job on a cluster's machine."""
    return job.train(dict(os.environ))
