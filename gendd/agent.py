"""The processes of a run on this machine: started, watched and, after a failure, started again by torchrun's agent."""

import hashlib
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass

from torch.distributed import DistStoreError
from torch.distributed.elastic.agent.server import WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousHandler,
    RendezvousParameters,
    RendezvousTimeoutError,
)
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from gendd.errors import UserError

# Seconds that machines wait for one another: at the start, after a failure, at the end.
PATIENCE = 600
# Exit codes of `run_program` after which another start would end the same: UserError, Ctrl-C, a reader that has gone.
# A PassingFault's is 1, as a crash's.
FINAL = {2, 130, 141}
# torchrun's own reports on failed processes and machines. The processes and `run` say what is wrong.
NOISY_LOGGERS = ("multiprocessing.api", "agent.server.api", "rendezvous.dynamic_rendezvous")


@dataclass(frozen=True)
class Nodes:
    """This machine among those of the run, which meet at `master`, host:port on the machine of rank 0.

    One machine alone meets itself at a free port, whatever its host name resolves to.
    """

    count: int = 1
    rank: int = 0
    master: str = "localhost:0"


class Agent(LocalElasticAgent):
    """torchrun's agent, which says why it starts the processes again, and does so only where it can help."""

    def _monitor_workers(self, worker_group):
        result = super()._monitor_workers(worker_group)
        if any(failure.exitcode in FINAL for failure in result.failures.values()):
            self._remaining_restarts = 0
        if result.is_failed() and self._remaining_restarts:
            left = f"{self._remaining_restarts} of {worker_group.spec.max_restarts} restarts left"
            print(f"{describe(result.failures)}; {left}, starting again", file=sys.stderr, flush=True)
        return result


def run(command: list[str], processes: int, nodes: Nodes, restarts: int) -> int:
    """Run a module with its flags in so many processes of this machine; the exit code.

    Raises:
        UserError: the machines cannot meet.
    """
    for name in NOISY_LOGGERS:
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    # Each start gets a store of its own. In one that outlives it, processes read the addresses of dead ones, and a
    # machine that comes back waits in vain to be told where it is (pytorch issue 135712; so in torch 2.13).
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    rendezvous = open_rendezvous(command, nodes)
    entry = {"entrypoint": sys.executable, "args": ("-u", "-m", *command)}
    spec = WorkerSpec("default", processes, rendezvous, **entry, max_restarts=restarts)
    try:
        result = Agent(spec, DefaultLogsSpecs(os.devnull), exit_barrier_timeout=PATIENCE).run()
    except SignalException as error:
        return 128 + error.sigval
    except RendezvousClosedError:
        return _error("another machine has ended the run; its own message says why")
    except RendezvousTimeoutError:
        return _error(f"waited {PATIENCE} s in vain for {nodes.count} machines; give the same command on each")
    except (RendezvousConnectionError, DistStoreError):
        lost = f"MASTER={nodes.master}: that machine is lost"
        return _error(f"{lost}; give the same command on each again, a training goes on from its last checkpoint")
    rendezvous.shutdown()
    if result is None or not result.is_failed():
        return 0
    # 2 means that a process has printed its one line.
    if any(failure.exitcode == 2 for failure in result.failures.values()):
        return 2
    return _error(describe(result.failures))


def _error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def open_rendezvous(command: list[str], nodes: Nodes) -> RendezvousHandler:
    """Where the machines of a run meet, at its start and after each failure.

    Raises:
        UserError: MASTER does not answer, or this machine, being it, cannot open the port.
    """
    parameters = RendezvousParameters(
        "c10d",
        nodes.master,
        # A machine that comes back with another command must not join.
        run_id=hashlib.blake2b(" ".join(command).encode(), digest_size=8).hexdigest(),
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        local_addr=_own_address(nodes),
        is_host=nodes.rank == 0,
        read_timeout=PATIENCE,
        join_timeout=PATIENCE,
    )
    try:
        return get_rendezvous_handler(parameters)
    except RendezvousConnectionError as error:
        raise UserError(f"MASTER={nodes.master}: something else has this port; choose another, host:port") from error


def _own_address(nodes: Nodes) -> str:
    """Where the other machines reach this one: its end of a connection to MASTER, once that answers. (Host names need
    not resolve elsewhere.)

    Raises:
        UserError: no such host, or it does not answer.
    """
    host, port = nodes.master.split(":")
    if nodes.rank == 0:
        return host
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=10) as connection:
                return connection.getsockname()[0]
        except socket.gaierror as error:
            raise UserError(f"MASTER={nodes.master}: no such host ({error.strerror})") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"MASTER={nodes.master}: no answer in {PATIENCE} s; give the same command there, with NODE_RANK=0"
                ) from error
            time.sleep(1)


def describe(failures: dict[int, ProcessFailure]) -> str:
    """Such as "process 1 ended with SIGKILL". Processes that the agent then stopped are not named."""
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode != -signal.SIGTERM} or failures
    endings = [
        (rank, f"exit code {failure.exitcode}" if failure.exitcode > 0 else failure.signal_name())
        for rank, failure in sorted(own.items())
    ]
    return ", ".join(f"process {rank} ended with {ending}" for rank, ending in endings)
