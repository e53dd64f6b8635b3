"""Start a program in one process a GPU: python -m gendd.launch MODULE [flags]. sh/launch.sh names the variables."""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from gendd.errors import UserError, run_program

PORT = 29500
# torchrun's own report on a failed worker. The worker has said what is wrong.
NOISY_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")


@dataclass(frozen=True)
class Nodes:
    """This machine among those of the run; `master` is host:port."""

    count: int = 1
    rank: int = 0
    master: str = ""


def main() -> None:
    """Replace this process by the program, or run it in several and end as it ends.

    Raises:
        UserError: a variable that cannot work.
    """
    if len(sys.argv) < 2:
        raise UserError("which program? bash sh/launch.sh MODULE [flags], such as gendd_cifar.train")
    command, environment = sys.argv[1:], os.environ
    processes, nodes = local_processes(environment, torch.cuda.device_count()), find_nodes(environment)
    if processes == nodes.count == 1:
        os.execv(sys.executable, [sys.executable, "-m", *command])
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run(parse_args([*torchrun_flags(processes, nodes), "--module", *command]))
    except ChildFailedError as error:
        sys.exit(_report(error))
    except SignalException as error:
        sys.exit(128 + error.sigval)


def local_processes(environment: Mapping[str, str], gpus: int) -> int:
    """Processes on this machine, which has so many GPUs."""
    if "CPU_PROCS" in environment:
        return _number(environment, "CPU_PROCS")
    if "GPUS" not in environment:
        return max(1, gpus)
    wanted = _number(environment, "GPUS")
    if wanted > gpus:
        raise UserError(f"GPUS={wanted}: this machine has {gpus}; lower it, or choose CPU processes with CPU_PROCS=")
    return wanted


def find_nodes(environment: Mapping[str, str]) -> Nodes:
    """The machines that the environment names, those of a Slurm job step, or this one alone."""
    if "NNODES" in environment:
        count = _number(environment, "NNODES")
        if count == 1:
            return Nodes()
        rank, master = (environment.get(name, "") for name in ("NODE_RANK", "MASTER"))
        if not rank.isdecimal() or int(rank) >= count:
            raise UserError(f"NODE_RANK={rank}: with NNODES={count} it must be from 0 to {count - 1}")
        if not master:
            raise UserError(f"MASTER is missing: with NNODES={count} it names the host of rank 0, host[:port]")
        return Nodes(count, int(rank), _with_port(master, PORT))
    if int(environment.get("SLURM_JOB_NUM_NODES", 1)) > 1:
        return _slurm_nodes(environment)
    return Nodes()


def _slurm_nodes(environment: Mapping[str, str]) -> Nodes:
    count = environment.get("SLURM_STEP_NUM_NODES")
    if count is None or environment.get("SLURM_STEP_NUM_TASKS") != count:
        raise UserError(
            "a Slurm job of several nodes: start one launcher on each, srun --ntasks-per-node=1 bash sh/launch.sh ..., "
            "or choose this node alone with NNODES=1"
        )
    if count == "1":
        return Nodes()
    # Jobs that share a node must not share a port.
    port = PORT + int(environment["SLURM_JOB_ID"]) % 1000
    master = environment.get("MASTER") or _first_host(environment["SLURM_STEP_NODELIST"])
    return Nodes(int(count), int(environment["SLURM_NODEID"]), _with_port(master, port))


def _first_host(nodes: str) -> str:
    try:
        hosts = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol cannot resolve the nodes {nodes} ({error}); name the first: MASTER=host") from error
    return hosts.stdout.split()[0]


def _with_port(master: str, port: int) -> str:
    return master if ":" in master else f"{master}:{port}"


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{name}={value}: must be a whole number, at least 1")
    return int(value)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def torchrun_flags(processes: int, nodes: Nodes) -> list[str]:
    """One machine meets at a free port of its own, whatever its host name resolves to."""
    flags = [f"--nproc-per-node={processes}"]
    if nodes.count == 1:
        return [*flags, "--standalone", "--local-addr=localhost"]
    host, port = nodes.master.rsplit(":", 1)
    return [
        *flags,
        f"--nnodes={nodes.count}",
        f"--node-rank={nodes.rank}",
        f"--master-addr={host}",
        f"--master-port={port}",
    ]


def _report(error: ChildFailedError) -> int:
    """Exit code. 2 means that a process has printed its one line (`run_program`)."""
    if any(failure.exitcode == 2 for failure in error.failures.values()):
        return 2
    rank, failure = error.get_first_failure()
    ending = f"exit code {failure.exitcode}" if failure.exitcode > 0 else failure.signal_name()
    print(f"error: process {rank} ended with {ending}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_program(main)
