"""The launcher: the processes that it starts, and its exit."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from lines import refuses

from gendd import launch as launcher
from gendd.core.distributed import join_world
from gendd.core.errors import UserError
from gendd.launch import Agent, local_processes, machines_of_slurm, main, rendezvous

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
def test_impossible_processes_are_refused(environment):
    with pytest.raises(UserError, match=next(iter(environment))):
        local_processes(environment, 2)


def test_machines_meet_at_master_with_the_same_command():
    first = rendezvous({"NODE_RANK": "0", "MASTER": "localhost"}, 2, ["train", "--lr", "1"])
    again = rendezvous({"NODE_RANK": "1", "MASTER": "localhost:1234"}, 2, ["train", "--lr", "1"])
    other = rendezvous({"NODE_RANK": "1", "MASTER": "localhost:1234"}, 2, ["train", "--lr", "2"])
    assert {"--rdzv-endpoint=localhost", "--local-addr=localhost"} <= set(first)
    assert {"--rdzv-endpoint=localhost:1234", "--local-addr=127.0.0.1"} <= set(again)
    assert "is_host=True" in first[-1] and "is_host=False" in again[-1]
    assert first[-2] == again[-2] != other[-2]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"NODE_RANK": "1"}, "NNODES=2: needs MASTER=host[:port] and NODE_RANK"),
        ({"NODE_RANK": "x", "MASTER": "localhost"}, "NODE_RANK=x: must be a whole number"),
        ({"NODE_RANK": "1", "MASTER": "localhost:x"}, "MASTER=localhost:x: must be host or host:port"),
        ({"NODE_RANK": "1", "MASTER": "nowhere.invalid"}, "MASTER=nowhere.invalid: must be host or host:port"),
    ],
)
def test_machines_that_cannot_meet_are_refused(environment, message):
    with pytest.raises(UserError, match=re.escape(message)):
        rendezvous(environment, 2, ["program"])


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Return a function from changes of Slurm's variables to the machines; scontrol is a stand-in."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames node[07-08]" ] && printf "node07\\nnode08\\n"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def machines(**changes: str | None) -> list[str]:
        changed = {name: value for name, value in {**SLURM, **changes}.items() if value}
        return list(machines_of_slurm(changed).values())

    return machines


def test_slurm_job_step_names_the_machines(slurm):
    assert slurm() == ["2", "1", "node07:29745"]
    assert slurm(MASTER="alpha:1") == ["2", "1", "alpha:1"]
    assert slurm(SLURM_STEP_NUM_NODES="1", SLURM_STEP_NUM_TASKS="1", SLURM_NODEID="0")[:2] == ["1", "0"]
    assert slurm(NNODES="1") == slurm(SLURM_JOB_NUM_NODES="1") == slurm(SLURM_JOB_NUM_NODES=None) == []
    for wrong in ({"SLURM_STEP_NUM_TASKS": "16"}, {"SLURM_STEP_NUM_NODES": None}):
        with refuses("srun --ntasks-per-node=1"):
            slurm(**wrong)


def test_slurm_node_waits_for_its_master(tmp_path):
    """The launcher itself reads Slurm's variables."""
    with socket.create_server(("localhost", 0)) as taken:
        master = f"localhost:{taken.getsockname()[1]}"
        environment = {**os.environ, **SLURM, "SLURM_NODEID": "0", "MASTER": master, "CPU_PROCS": "1"}
        command = [sys.executable, "-m", "gendd_cifar", "launch", "train", "kd"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    line = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and line.startswith(f"error: MASTER={master}: ") and "EADDRINUSE" in line


def test_launch_program_starts_its_own_command():
    environment = {**os.environ, "CPU_PROCS": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gendd_cifar", "launch", "train"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.count("usage: python -m gendd_cifar train METHOD") == 2


@pytest.fixture
def launch(tmp_path):
    """Return a function (body of main, processes, variables) that runs a program under the launcher."""

    def run(body: str, processes: int, **variables: str) -> subprocess.CompletedProcess:
        (tmp_path / "program.py").write_text(
            "import time\nfrom gendd.core.distributed import join_world\n"
            "from gendd.core.errors import UserError, run_program\n"
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
def test_user_error_is_one_line_and_not_restarted(launch, processes, restarts):
    """Each process keeps its freed memory, unless the user sets malloc's variables."""
    told = "import os; os.write(1, os.path.expandvars(b'$MALLOC_MMAP_THRESHOLD_ $MALLOC_TRIM_THRESHOLD_\\n'))"
    fails = f"{told}; raise UserError('cannot work')"
    result = launch(fails, processes, MAX_RESTARTS=restarts, MALLOC_TRIM_THRESHOLD_="7")
    assert (result.returncode, result.stderr) == (2, "error: cannot work\n")
    assert set(result.stdout.splitlines()) == {f"{2**40} 7"}


def test_launcher_prints_traceback_of_each_crash(launch):
    # One machine starts without the others, even if an engine names several to torchrun.
    result = launch("raise ValueError('broken')", 2, MAX_RESTARTS="1", PET_NNODES="2")
    assert result.returncode == 1
    assert "ended with exit code 1; 1 of 1 restarts left, starting again" in result.stderr
    first, second = result.stderr.split("starting again\n")
    assert "ValueError: broken" in first and "ValueError: broken" in second
    assert second.splitlines()[-1].startswith("error: process") and second.endswith("ended with exit code 1\n")


@pytest.mark.parametrize(
    "options",
    [["--master-addr=localhost", "--master-port=PORT"], ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:PORT"]],
)
def test_torchrun_on_two_machines_joins_all_processes(tmp_path, options):
    """Two launchers start one process each, with variables set as by an engine such as Kubeflow."""
    (tmp_path / "program.py").write_text(
        "import os\nfrom gendd.core.distributed import join_world\nwith join_world() as world:\n"
        "    world.barrier()\n    os.write(1, b'%d\\n' % world.size)\n"
    )
    with socket.create_server(("localhost", 0)) as free:
        options = [option.replace("PORT", str(free.getsockname()[1])) for option in options]
    own = {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{tmp_path}", "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *options, "--local-addr=localhost", "-m", "program"],
            env={**os.environ, **own, "PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    assert [machine.communicate(timeout=120)[0] for machine in machines] == ["2\n"] * 2


def test_process_without_its_peer_times_out(launch):
    lost = "time.sleep(3600 * world.rank)\n        world.barrier()"
    result = launch(f"with join_world() as world:\n        {lost}", 2, PEER_TIMEOUT="5")
    assert result.returncode == 1
    assert result.stderr.endswith("error: process 0 ended with exit code 1\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_killed_launcher_ends_its_processes(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, time\nfrom gendd.core.distributed import join_world\nwith join_world() as world:\n"
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
    """Return whether the process exists and is not a zombie."""
    status = Path("/proc", str(pid), "status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_variables_that_are_not_numbers_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "CPU_PROCS": "2", "MAX_RESTARTS": "-1", "PEER_TIMEOUT": "soon"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["launch", "program"])
    with refuses("MAX_RESTARTS=-1: must be a whole number, at least 0"):
        main()
    with refuses("PEER_TIMEOUT=soon: must be a whole number, at least 1"), join_world():
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


@pytest.mark.parametrize(("code", "requeued"), [(75, "requeue 12345\n"), (1, "")])
def test_slurm_script_queues_a_stopped_run_again(tmp_path, code, requeued):
    for name, text in {"srun": f"exit {code}", "scontrol": f'echo "$*" > {tmp_path}/asked'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").write_text("")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "1"}
    script = Path(__file__).parents[2] / "sh" / "slurm.sh"
    command = ["bash", script, "sh/quickstart.sh"]
    assert subprocess.run(command, env=environment | {"SLURM_JOB_ID": "12345"}).returncode == code
    assert (tmp_path / "asked").read_text() == requeued


@pytest.mark.parametrize(
    ("code", "ending", "line"), [(1, 1, "error: process 0 ended with exit code 1\n"), (75, 75, "")]
)
def test_launcher_does_not_wait_for_ever_for_a_machine(monkeypatch, capsys, code, ending, line):
    """Its agent hangs in a question to the other machine, after its own process has failed."""
    agent, ended = Agent.__new__(Agent), []
    monkeypatch.setattr(launcher, "peer_timeout", lambda: 0)
    monkeypatch.setattr(launcher.os, "_exit", ended.append)
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    agent._remaining_restarts, agent._pcontext = (
        0,
        SimpleNamespace(subprocess_handlers={0: SimpleNamespace(proc=process)}),
    )
    agent._watch(agent._pcontext)
    assert ended == [code] and capsys.readouterr().err == line
    earlier, agent._pcontext = agent._pcontext, None
    agent._watch(earlier)
    assert ended == [code], "the agent has gone on to other processes"


def test_output_to_a_closed_pipe_prints_no_traceback():
    command = f"{sys.executable} -m gendd_cifar train --help | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.startswith("usage") and result.stderr == ""
