"""Start a program in one process a GPU: python -m gendd.launch MODULE [flags]. sh/launch.sh names the variables."""

import os
import subprocess
import sys
from collections.abc import Mapping

import torch

from gendd.agent import Nodes, run
from gendd.distributed import usable_cores, whole_number
from gendd.errors import UserError, run_program

PORT = 29500
# glibc gives blocks larger than its thresholds back to the system as soon as they are free, and a training step on the
# CPU then pays for getting them anew. Here the thresholds, in bytes, are more than any step takes (bench/allocator.py).
KEPT_BLOCKS = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**40))


def main() -> None:
    """Replace this process by the program, or run it in several and end as it ends.

    Raises:
        UserError: a variable that cannot work.
    """
    if len(sys.argv) < 2:
        raise UserError("which program? bash sh/launch.sh MODULE [arguments], such as gendd_cifar train")
    command, environment, gpus = sys.argv[1:], os.environ, torch.cuda.device_count()
    processes, nodes = local_processes(environment, gpus), find_nodes(environment)
    restarts = whole_number(environment, "MAX_RESTARTS", 0, least=0)
    if not gpus or "CPU_PROCS" in environment:
        for name, size in KEPT_BLOCKS.items():
            environment.setdefault(name, size)
    if processes == nodes.count == 1 and not restarts:
        os.execv(sys.executable, [sys.executable, "-m", *command])
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    sys.exit(run(command, processes, nodes, restarts))


def local_processes(environment: Mapping[str, str], gpus: int) -> int:
    """Processes on this machine, which has so many GPUs."""
    if "CPU_PROCS" in environment:
        return whole_number(environment, "CPU_PROCS", 1)
    if "GPUS" not in environment:
        return max(1, gpus)
    wanted = whole_number(environment, "GPUS", 1)
    if wanted > gpus:
        raise UserError(f"GPUS={wanted}: this machine has {gpus}; lower it, or choose CPU processes with CPU_PROCS=")
    return wanted


def find_nodes(environment: Mapping[str, str]) -> Nodes:
    """The machines that the environment names, those of a Slurm job step, or this one alone."""
    if "NNODES" in environment:
        count = whole_number(environment, "NNODES", 1)
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
    host, given, number = master.partition(":")
    if given and not number.isdecimal():
        raise UserError(f"MASTER={master}: must be host or host:port")
    return f"{host}:{number or port}"


if __name__ == "__main__":
    run_program(main)
