"""Start a program by torchrun, with one process per GPU: python -m gendd.launch MODULE [flags].

The launcher differs from torchrun in three points. It does not restart after a user's error and ends with the same exit
code, 2. After other failures it prints one line and ends with exit code 1. Machines do not need to resolve each other's
host names.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Mapping

import torch
from torch.distributed import DistError
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException, SubprocessContext
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher import api
from torch.distributed.run import parse_args, run

from gendd.core.distributed import peer_timeout, usable_cores, whole_number
from gendd.core.errors import PassingFault, UserError, run_program
from gendd.core.stopping import REQUESTS, START_AGAIN
from gendd.family import Family

HELP = """\
Start a program, such as train, with torchrun on all GPUs of this machine, or on its CPU. Relative paths, including
data/, pretrained/ and runs/, count from the current folder.

Environment variables:
  GPUS=2            use 2 GPUs of each machine
  CPU_PROCS=2       use 2 processes on the CPU
  NNODES=4 NODE_RANK=0 MASTER=host[:port]
                    use several machines: run the same command on each. MASTER is the machine of rank 0 (port 29400
                    if not given). All machines need the same runs folder. In a Slurm job step they are set
                    automatically
  MAX_RESTARTS=3    after a failure, restart the processes of all machines, at most 3 times (0 if not set). They
                    resume from the last checkpoint. Failures are crashes, kills and faults of disk, network or data
                    workers (exit code 1). An error that the user must correct (exit code 2) causes no restart.
                    SIGTERM and SIGUSR1 end a training after its next step and a checkpoint, with exit code 75: start
                    it again to resume
  PEER_TIMEOUT=600  seconds that a process waits for the others before it stops. Only this detects a machine that
                    vanished. It must be longer than the first process works alone (downloads, reports). The run also
                    stops if data workers send nothing for nine tenths of it"""
# Seconds that a machine waits for the machine with NODE_RANK=0.
PATIENCE = 600
# glibc returns blocks above its thresholds to the system when they are freed, and each training step on the CPU pays to
# get them again. These thresholds, in bytes, are larger than any block of a step (bench/allocator.py).
KEPT_BLOCKS = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(2**40))


class Agent(LocalElasticAgent):
    """torchrun's agent. It prints why it restarts the processes, and does not restart them after a user's error.

    SIGTERM and SIGUSR1 ask the processes to save and stop, without a limit of time. A second SIGTERM ends them at once.
    """

    asked, terminated = False, False

    def _start_workers(self, worker_group):
        started = super()._start_workers(worker_group)
        for number in REQUESTS:
            signal.signal(number, self._ask_to_stop)
        threading.Thread(target=self._watch, args=[self._pcontext], daemon=True).start()
        return started

    def _watch(self, context: SubprocessContext) -> None:
        """End this launcher after its processes failed, if it waits in vain for a machine that it cannot reach.

        torchrun's agent asks the first machine for news again and again. Without a connection it waits without a limit.
        """
        processes = {rank: handler.proc for rank, handler in context.subprocess_handlers.items()}
        while any(process.poll() is None for process in processes.values()):
            time.sleep(1)
        codes = {rank: process.returncode for rank, process in processes.items()}
        if not any(codes.values()):
            return
        time.sleep(peer_timeout() + (PATIENCE if self._remaining_restarts else 0))
        if self._pcontext is context:
            code = said_by(codes)
            if not code:
                print(f"error: {describe(codes)}", file=sys.stderr, flush=True)
            os._exit(code or 1)

    def _ask_to_stop(self, number: int, _) -> None:
        if number == signal.SIGTERM and self.terminated:
            raise SignalException("a second SIGTERM", signal.SIGTERM)
        self.terminated |= number == signal.SIGTERM
        type(self).asked = True
        self._remaining_restarts = 0
        for process in self._pcontext.pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGUSR1)

    def _monitor_workers(self, worker_group):
        result = super()._monitor_workers(worker_group)
        if any(failure.exitcode == 2 for failure in result.failures.values()):
            self._remaining_restarts = 0
        if result.is_failed() and self._remaining_restarts:
            left = f"{self._remaining_restarts} of {worker_group.spec.max_restarts} restarts left"
            print(f"{describe(exit_codes(result.failures))}; {left}, starting again", file=sys.stderr, flush=True)
        return result


def launch(family: Family, arguments: list[str]) -> None:
    """Run the launch program: start another program of the same command in several processes.

    Raises:
        UserError, PassingFault: see `start`.
    """
    if arguments[:1] in ([], ["-h"], ["--help"]):
        print(f"usage: {family.command} launch PROGRAM [flags]\n\n{HELP}")
        return
    start([family.module, *arguments])


def main() -> None:
    """Start the module that the command line names.

    Raises:
        UserError, PassingFault: see `start`.
    """
    if not sys.argv[1:]:
        raise UserError("MODULE is missing: name the program, such as gendd_cifar train")
    start(sys.argv[1:])


def start(command: list[str]) -> None:
    """Replace this process by the program, or run the program in several processes and return its exit code.

    Args:
        command: module and arguments.

    Raises:
        UserError: an environment variable is invalid.
        PassingFault: a process failed, or the machines lost their connection.
    """
    environment, gpus = os.environ, torch.cuda.device_count()
    environment.update(machines_of_slurm(environment))
    processes, restarts = local_processes(environment, gpus), whole_number(environment, "MAX_RESTARTS", 0, least=0)
    nodes = whole_number(environment, "NNODES", 1)
    if not gpus or "CPU_PROCS" in environment:
        for name, size in KEPT_BLOCKS.items():
            environment.setdefault(name, size)
    if processes == nodes == 1 and not restarts:
        os.execv(sys.executable, [sys.executable, "-m", *command])
    environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    # Use a new store at each start. In a shared store, processes read the addresses of dead processes, and a restarted
    # machine waits in vain (pytorch issue 135712, also in torch 2.13).
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    meeting = rendezvous(environment, nodes, command) if nodes > 1 else ["--standalone"]
    options = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", f"--max-restarts={restarts}", *meeting]
    logging.disable()  # Silence torchrun: the processes and this program print the errors.
    api.LocalElasticAgent = Agent
    try:
        run(parse_args([*options, f"--log-dir={os.devnull}", "-m", "--", *command]))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        codes = exit_codes(error.failures)
        if code := said_by(codes):
            sys.exit(code)
        raise PassingFault(describe(codes)) from error
    except (RendezvousError, DistError) as error:
        master = environment.get("MASTER", "this machine")
        why = f"MASTER={master}: {error.__cause__ or error}"
        raise PassingFault(f"{why}; check the other machines' output, then run the command on each again") from error


def local_processes(environment: Mapping[str, str], gpus: int) -> int:
    """Return the number of processes on this machine, which has `gpus` GPUs."""
    if "CPU_PROCS" in environment:
        return whole_number(environment, "CPU_PROCS", 1)
    if "GPUS" not in environment:
        return max(1, gpus)
    wanted = whole_number(environment, "GPUS", 1)
    if wanted > gpus:
        raise UserError(f"GPUS={wanted}: this machine has {gpus}; lower it, or choose CPU processes with CPU_PROCS=")
    return wanted


def machines_of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Return NNODES, NODE_RANK and MASTER of a Slurm job of several nodes; empty elsewhere, or if NNODES is set.

    Raises:
        UserError: this is not one of one process per node.
    """
    if environment.get("NNODES") or whole_number(environment, "SLURM_JOB_NUM_NODES", 1) == 1:
        return {}
    nodes = environment.get("SLURM_STEP_NUM_NODES", "")
    if environment.get("SLURM_STEP_NUM_TASKS") != nodes or not nodes:
        raise UserError(
            "this Slurm job has several nodes; start one launcher on each, srun --ntasks-per-node=1 before the "
            "command, or use only this node with NNODES=1"
        )
    master = environment.get("MASTER")
    if not master:
        listing = ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]]
        first = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()[0]
        # Jobs that share a node must not share a port.
        master = f"{first}:{29400 + int(environment['SLURM_JOB_ID']) % 1000}"
    return {"NNODES": nodes, "NODE_RANK": environment["SLURM_NODEID"], "MASTER": master}


def rendezvous(environment: Mapping[str, str], nodes: int, command: list[str]) -> list[str]:
    """Return torchrun's options for machines that connect to MASTER. Machines join only with the same command."""
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


def exit_codes(failures: Mapping[int, ProcessFailure]) -> dict[int, int]:
    """Return the exit code of each failed process; a signal is negative."""
    return {rank: failure.exitcode for rank, failure in failures.items()}


def said_by(codes: Mapping[int, int]) -> int:
    """Return the exit code of processes that have printed why they ended; 0 if they have not."""
    if 2 in codes.values():
        return 2
    return START_AGAIN if START_AGAIN in codes.values() or Agent.asked else 0


def describe(codes: Mapping[int, int]) -> str:
    """Return, for example, "process 1 ended with SIGKILL". Leave out processes that the agent stopped afterwards."""
    own = {rank: code for rank, code in codes.items() if code not in (0, -signal.SIGTERM)} or codes
    endings = [
        (rank, f"exit code {code}" if code >= 0 else signal.Signals(-code).name) for rank, code in sorted(own.items())
    ]
    return ", ".join(f"process {rank} ended with {ending}" for rank, ending in endings)


if __name__ == "__main__":
    run_program(main)
