"""Start a program by torchrun, in one process per GPU: python -m gendd.launch MODULE [flags].

sh/launch.sh names the variables. This adds three things to torchrun. A user's error (exit code 2) is not tried again,
and the launcher ends with 2. Other failures end with one line and exit code 1. Hosts need not know each other's names.
"""

import logging
import os
import signal
import socket
import sys
import zlib
from collections.abc import Mapping

import torch
from torch.distributed import DistError
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api
from torch.distributed.run import parse_args, run

from gendd.core.distributed import usable_cores, whole_number
from gendd.core.errors import PassingFault, UserError, run_program

# Seconds that a machine waits for the machine of rank 0.
PATIENCE = 600
# glibc gives blocks larger than its thresholds back to the system as soon as they are free, and a training step on the
# CPU then pays for getting them again. Here the thresholds, in bytes, exceed what any step takes (bench/allocator.py).
KEPT_BLOCKS = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**40))


class Agent(LocalElasticAgent):
    """torchrun's agent. It prints why it starts the processes again, and does not do so after a user's error."""

    def _monitor_workers(self, worker_group):
        result = super()._monitor_workers(worker_group)
        if any(failure.exitcode == 2 for failure in result.failures.values()):
            self._remaining_restarts = 0
        if result.is_failed() and self._remaining_restarts:
            left = f"{self._remaining_restarts} of {worker_group.spec.max_restarts} restarts left"
            print(f"{describe(result.failures)}; {left}, starting again", file=sys.stderr, flush=True)
        return result


def main() -> None:
    """Replace this process by the program, or run it in several processes and end as it ends.

    Raises:
        UserError: a variable that cannot work. PassingFault: a process failed, or the machines lost each other.
    """
    command, environment, gpus = sys.argv[1:], os.environ, torch.cuda.device_count()
    if not command:
        raise UserError("which program? bash sh/launch.sh MODULE [arguments], such as gendd_cifar train")
    processes, restarts = local_processes(environment, gpus), whole_number(environment, "MAX_RESTARTS", 0, least=0)
    nodes = whole_number(environment, "NNODES", 1)
    if not gpus or "CPU_PROCS" in environment:
        for name, size in KEPT_BLOCKS.items():
            environment.setdefault(name, size)
    if processes == nodes == 1 and not restarts:
        os.execv(sys.executable, [sys.executable, "-m", *command])
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    # Each start gets a new store. In one that outlives it, processes read the addresses of dead ones, and a machine
    # that comes back waits in vain (pytorch issue 135712; so in torch 2.13).
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    meeting = rendezvous(environment, nodes, command) if nodes > 1 else ["--standalone"]
    options = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", f"--max-restarts={restarts}", *meeting]
    logging.disable()  # torchrun's own reports. The processes and this program print what is wrong.
    api.LocalElasticAgent = Agent
    try:
        run(parse_args([*options, f"--log-dir={os.devnull}", "-m", *command]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        if any(failure.exitcode == 2 for failure in error.failures.values()):
            sys.exit(2)
        raise PassingFault(describe(error.failures)) from error
    except (RendezvousError, DistError) as error:
        master = environment.get("MASTER", "this machine")
        why = f"MASTER={master}: {error.__cause__ or error}"
        raise PassingFault(f"{why}; see what the other machines print, then give the command on each again") from error


def local_processes(environment: Mapping[str, str], gpus: int) -> int:
    """Return the number of processes of this machine, which has `gpus` GPUs."""
    if "CPU_PROCS" in environment:
        return whole_number(environment, "CPU_PROCS", 1)
    if "GPUS" not in environment:
        return max(1, gpus)
    wanted = whole_number(environment, "GPUS", 1)
    if wanted > gpus:
        raise UserError(f"GPUS={wanted}: this machine has {gpus}; lower it, or choose CPU processes with CPU_PROCS=")
    return wanted


def rendezvous(environment: Mapping[str, str], nodes: int, command: list[str]) -> list[str]:
    """Return torchrun's options for machines that meet at MASTER. Only those with the same command do."""
    if not {"NODE_RANK", "MASTER"} <= environment.keys():
        raise UserError(f"NNODES={nodes}: needs MASTER=host[:port] and NODE_RANK, which is 0 on that host")
    master, first = environment["MASTER"], whole_number(environment, "NODE_RANK", 0, least=0) == 0
    host, _, port = master.partition(":")
    try:
        ((family, *_, address), *_) = socket.getaddrinfo(host, port or 1, type=socket.SOCK_DGRAM)
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            way.connect(address)
            own = host if first else way.getsockname()[0]
    except OSError as error:
        raise UserError(f"MASTER={master}: must be host or host:port ({error.strerror})") from error
    return [
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={master}", f"--local-addr={own}"),
        *(
            f"--rdzv-id={zlib.crc32(' '.join(command).encode())}",
            f"--rdzv-conf=is_host={first},read_timeout={PATIENCE}",
        ),
    ]


def describe(failures: dict[int, ProcessFailure]) -> str:
    """Return, for example, "process 1 ended with SIGKILL". Processes that the agent then stopped are not named."""
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode != -signal.SIGTERM} or failures
    endings = [
        (rank, f"exit code {failure.exitcode}" if failure.exitcode > 0 else failure.signal_name())
        for rank, failure in sorted(own.items())
    ]
    return ", ".join(f"process {rank} ended with {ending}" for rank, ending in endings)


if __name__ == "__main__":
    run_program(main)
