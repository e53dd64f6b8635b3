"""Two machines as network namespaces of this one, with faults of the cable, of a machine and of a disk."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from digits import Runs, difference
from rows import Row, tested
from small_runs import TOYS

PEER_TIMEOUT, RESTARTS = 30, 2
# A machine that lost the first one waits ten minutes for it (`gendd.launch.PATIENCE`).
PATIENCE = 900
QUEUE = ["ip", "netns", "exec", "beta", "tc", "qdisc"]
HOSTS = {"alpha": "10.0.0.1", "beta": "10.0.0.2"}


def hosts(folder: Path, short: bool) -> Iterator[Row]:
    _connect()
    runs = Pair(folder)
    for promise, fault in FAULTS.items():
        if fault is _delayed and not _can_delay():
            continue
        yield tested(promise, map(fault, [runs]))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _connect() -> None:
    """Create two machines with a cable between them. The namespaces end with this process."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)  # For ip netns.
    for host in HOSTS:
        _ip("netns", "add", host)
    _ip("link", "add", "cable", "netns", "alpha", "type", "veth", "peer", "name", "cable", "netns", "beta")
    for host, address in HOSTS.items():
        _ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
        for link in ("lo", "cable"):
            _ip("-n", host, "link", "set", link, "up")


def _can_delay() -> bool:
    """Return whether the kernel can delay packets."""
    return not subprocess.run(
        [*QUEUE, "add", "dev", "lo", "root", "netem", "delay", "0ms"], capture_output=True
    ).returncode


class Pair:
    """Runs of two machines in the folder `parts`, next to an undisturbed run in two processes."""

    def __init__(self, folder: Path):
        self.runs, self.place, self.whole = Runs(folder), folder / "parts", folder / "whole"
        self.launchers: dict[str, subprocess.Popen] = {}
        ended = self._launch([], self.whole, CPU_PROCS="2")
        assert not ended.wait(), ended.stderr

    def _launch(self, before: list[str], place: Path, **variables: str) -> subprocess.Popen:
        environment = {**os.environ, "PEER_TIMEOUT": str(PEER_TIMEOUT), "GLOO_SOCKET_IFNAME": "lo", **variables}
        environment["PYTHONPATH"] = os.pathsep.join([TOYS, environment.get("PYTHONPATH", "")])
        flags = self.runs.words(place, "--epochs", "20")
        command = [*before, sys.executable, "-m", "gendd.launch", "gendd_cifar", "train", *flags]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def start(self, *names: str, restarts: int = RESTARTS) -> None:
        """Start the launchers of these machines."""
        for name in names or HOSTS:
            before = ["ip", "netns", "exec", name]
            variables = {"NNODES": "2", "NODE_RANK": str(list(HOSTS).index(name)), "MASTER": HOSTS["alpha"]}
            variables |= {"CPU_PROCS": "1", "GLOO_SOCKET_IFNAME": "cable", "MAX_RESTARTS": str(restarts)}
            self.launchers[name] = self._launch(before, self.place, **variables)

    def begin(self, restarts: int = RESTARTS) -> None:
        """Start both machines with a new run, and wait for its first checkpoint."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.start(restarts=restarts)
        limit = time.monotonic() + PATIENCE
        while not (self.place / "checkpoints" / "last.pt").exists():
            assert time.monotonic() < limit, "the run does not begin"
            time.sleep(0.02)

    def cable(self, state: str) -> None:
        _ip("-n", "beta", "link", "set", "cable", state)

    def end(self, *names: str, may_fail: bool = True) -> list[str]:
        """Wait for the machines; return a problem for each that hangs, or fails without one line."""
        problems = []
        for name in names or HOSTS:
            launcher = self.launchers[name]
            try:
                _, error = launcher.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self.power_off(name)
                problems.append(f"{name} hangs")
                continue
            lines = [line for line in error.splitlines() if line.startswith("error:")]
            if launcher.returncode and not (may_fail and launcher.returncode in (1, 2) and lines):
                problems.append(f"{name}: exit code {launcher.returncode}, {error.strip().splitlines()[-1:]}")
        return problems

    def power_off(self, host: str) -> None:
        """Kill all processes of a machine."""
        found = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout
        for pid in found.split():
            os.kill(int(pid), signal.SIGKILL)

    def finish(self, problems: list[str]) -> str:
        """Start the same command again on both machines, unless the run is complete; return all problems."""
        if not problems and not (self.place / "result.json").exists():
            self.start()
            problems = self.end(may_fail=False)
        return "; ".join(problems) or difference(self.whole, self.place)


def _cut(runs: Pair) -> str:
    runs.begin()
    runs.cable("down")
    time.sleep(5)
    runs.cable("up")
    return runs.finish(runs.end())


def _cut_for_ever(runs: Pair) -> str:
    runs.begin(restarts=0)
    runs.cable("down")
    problems = runs.end()
    runs.cable("up")
    return runs.finish(problems)


def _half_open(runs: Pair) -> str:
    """Let all packets that beta sends get lost without a sign: it takes another address for alpha's card."""
    runs.begin(restarts=0)
    neighbor = ["-n", "beta", "neigh", "replace", HOSTS["alpha"], "dev", "cable"]
    _ip(*neighbor, "lladdr", "02:00:00:00:00:99", "nud", "permanent")
    problems = runs.end()
    _ip("-n", "beta", "neigh", "del", HOSTS["alpha"], "dev", "cable")
    return runs.finish(problems)


def _delayed(runs: Pair) -> str:
    runs.begin(restarts=0)
    subprocess.run([*QUEUE, "replace", "dev", "cable", "root", "netem", "delay", "100ms"], check=True)
    problems = runs.end()
    subprocess.run([*QUEUE, "del", "dev", "cable", "root"], check=True)
    return runs.finish(problems)


def _master_lost(runs: Pair) -> str:
    runs.begin(restarts=0)
    runs.power_off("alpha")
    runs.launchers["alpha"].communicate()
    return runs.finish(runs.end("beta"))


def _read_only(runs: Pair) -> str:
    """Make the folder of checkpoints read-only, for the machine that writes them."""
    runs.begin(restarts=0)
    folder = runs.place / "checkpoints"
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    problems = runs.end()
    subprocess.run(["umount", "--lazy", folder], check=True)
    return runs.finish(problems)


FAULTS = {
    "The cable is cut for 5 s: the run ends with the same bits": _cut,
    "The cable is cut for ever: both machines end with one line; later the same bits": _cut_for_ever,
    "One direction delays each packet by 100 ms: the run ends with the same bits": _delayed,
    "One direction loses all packets: both machines end with one line; later the same bits": _half_open,
    "The first machine loses its power: the other ends with one line; later the same bits": _master_lost,
    "The disk becomes read-only: both machines end with one line; later the same bits": _read_only,
}
