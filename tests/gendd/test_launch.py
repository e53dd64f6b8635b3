"""The launcher: which processes it starts, and how it ends."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gendd import agent
from gendd.agent import Nodes, open_rendezvous
from gendd.distributed import join_world
from gendd.errors import UserError
from gendd.launch import find_nodes, local_processes, main

SLURM = {
    "SLURM_JOB_ID": "12345",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NODEID": "1",
}


@pytest.mark.parametrize(
    ("environment", "gpus", "expected"),
    [({}, 0, 1), ({}, 8, 8), ({"GPUS": "2"}, 8, 2), ({"CPU_PROCS": "3"}, 0, 3), ({"CPU_PROCS": "3"}, 8, 3)],
)
def test_local_processes(environment, gpus, expected):
    assert local_processes(environment, gpus) == expected


@pytest.mark.parametrize("environment", [{"GPUS": "3"}, {"GPUS": "0"}, {"GPUS": "all"}, {"CPU_PROCS": ""}])
def test_impossible_processes(environment):
    with pytest.raises(UserError, match=next(iter(environment))):
        local_processes(environment, 2)


def test_named_nodes():
    assert find_nodes({}) == find_nodes({"NNODES": "1"}) == Nodes()
    two = {"NNODES": "2", "NODE_RANK": "1"}
    assert find_nodes({**two, "MASTER": "alpha"}) == Nodes(2, 1, "alpha:29500")
    assert find_nodes({**two, "MASTER": "alpha:1234"}) == Nodes(2, 1, "alpha:1234")
    with pytest.raises(UserError, match="MASTER"):
        find_nodes(two)
    with pytest.raises(UserError, match="MASTER=alpha:x"):
        find_nodes({**two, "MASTER": "alpha:x"})
    with pytest.raises(UserError, match="NODE_RANK=2"):
        find_nodes({**two, "NODE_RANK": "2"})


def test_slurm_nodes(tmp_path, monkeypatch):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[07-08]" ] && printf "node07\\nnode08\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_nodes(SLURM) == Nodes(2, 1, "node07:29845")
    assert find_nodes({**SLURM, "MASTER": "alpha:1"}) == Nodes(2, 1, "alpha:1")
    assert find_nodes({**SLURM, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1"}) == Nodes()
    assert find_nodes({**SLURM, "NNODES": "1"}) == Nodes()
    for tasks in ({"SLURM_STEP_NUM_TASKS": "16"}, {"SLURM_STEP_NUM_NODES": None}):
        environment = {name: value for name, value in {**SLURM, **tasks}.items() if value}
        with pytest.raises(UserError, match="srun --ntasks-per-node=1"):
            find_nodes(environment)


def test_machines_that_cannot_meet(monkeypatch):
    monkeypatch.setattr(agent, "PATIENCE", 1)
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"MASTER=localhost:{port}: something else has this port"):
            open_rendezvous(["program"], Nodes(2, 0, f"localhost:{port}"))
    with pytest.raises(UserError, match=f"MASTER=localhost:{port}: no answer in 1 s"):
        open_rendezvous(["program"], Nodes(2, 1, f"localhost:{port}"))
    with pytest.raises(UserError, match="MASTER=nowhere.invalid:1: no such host"):
        open_rendezvous(["program"], Nodes(2, 1, "nowhere.invalid:1"))


def test_only_the_same_command_joins_a_run():
    first, again, other = (open_rendezvous(["train", "--lr", rate], Nodes()) for rate in ("1", "1", "2"))
    assert first.get_run_id() == again.get_run_id() != other.get_run_id()


@pytest.fixture
def launch(tmp_path):
    """Function: what a program's main does, processes, variables -> its result under the launcher."""

    def run(body: str, processes: int, **variables: str) -> subprocess.CompletedProcess:
        (tmp_path / "program.py").write_text(
            "import time\nfrom gendd.distributed import join_world\nfrom gendd.errors import UserError, run_program\n"
            f"def main():\n    {body}\nrun_program(main)\n"
        )
        environment = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "CPU_PROCS": str(processes), **variables}
        return subprocess.run(
            [sys.executable, "-m", "gendd.launch", "program"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.parametrize(("processes", "restarts"), [(1, "0"), (2, "2")])
def test_a_user_error_stays_one_line(launch, processes, restarts):
    """However often the launcher may try."""
    result = launch("raise UserError('cannot work')", processes, MAX_RESTARTS=restarts)
    assert (result.returncode, result.stderr) == (2, "error: cannot work\n")


def test_a_crash_is_told_as_it_happened_each_time(launch):
    result = launch("raise ValueError('broken')", 2, MAX_RESTARTS="1")
    assert result.returncode == 1
    assert "ended with exit code 1; 1 of 1 restarts left, starting again" in result.stderr
    first, second = result.stderr.split("starting again\n")
    assert "ValueError: broken" in first and "ValueError: broken" in second
    assert second.splitlines()[-1].startswith("error: process") and second.endswith("ended with exit code 1\n")


@pytest.mark.parametrize("processes", [1, 2])
def test_freed_memory_is_kept_on_the_cpu_unless_the_user_says_otherwise(launch, processes):
    told = "import os; print(os.environ['MALLOC_MMAP_THRESHOLD_'], os.environ['MALLOC_TRIM_THRESHOLD_'])"
    result = launch(told, processes, MALLOC_TRIM_THRESHOLD_="7")
    assert result.stdout == f"{2**40} 7\n" * processes


def test_a_process_that_waits_in_vain_gives_up(launch):
    lost = "time.sleep(3600 * world.rank)\n        world.barrier()"
    result = launch(f"with join_world() as world:\n        {lost}", 2, PEER_TIMEOUT="5")
    assert result.returncode == 1
    assert result.stderr.endswith("error: process 0 ended with exit code 1\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_launcher_that_is_killed_takes_its_processes_along(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, time\nfrom gendd.distributed import join_world\nwith join_world() as world:\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n    time.sleep(300)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}", "CPU_PROCS": "2"}
    command = [sys.executable, "-m", "gendd.launch", "program"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        pids = [int(launcher.stdout.readline()) for _ in range(2)]
        launcher.kill()
    deadline = time.monotonic() + 30
    while any(map(runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(runs, pids))


def runs(pid: int) -> bool:
    """Whether it is there and no zombie."""
    status = Path("/proc", str(pid), "status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_variables_that_are_no_numbers(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "CPU_PROCS": "2", "MAX_RESTARTS": "-1", "PEER_TIMEOUT": "soon"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["launch", "program"])
    with pytest.raises(UserError, match="MAX_RESTARTS=-1: must be a whole number, at least 0"):
        main()
    with pytest.raises(UserError, match="PEER_TIMEOUT=soon: must be a whole number, at least 1"), join_world():
        pass


def test_slurm_script_starts_a_launcher_on_each_node(tmp_path):
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\necho "MAX_RESTARTS=$MAX_RESTARTS $*"\n')
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "16"}
    script = Path(__file__).parents[2] / "sh" / "slurm.sh"
    command = ["bash", script, "sh/quickstart.sh", "--seed", "1"]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.startswith("MAX_RESTARTS=3 ") and output.endswith(" bash sh/quickstart.sh --seed 1\n")
    assert "--ntasks-per-node=1" in output and "--cpus-per-task=16" in output


def test_output_that_nobody_reads_on_ends_without_a_traceback():
    command = f"{sys.executable} -m gendd_cifar train --help | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.startswith("usage") and result.stderr == ""
