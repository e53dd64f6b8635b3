"""The launcher: which processes it starts, and how it ends."""

import os
import subprocess
import sys

import pytest

from gendd.errors import UserError
from gendd.launch import Nodes, find_nodes, local_processes, torchrun_flags

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


def test_torchrun_flags():
    assert "--standalone" in torchrun_flags(2, Nodes())
    assert "--master-addr=alpha" in torchrun_flags(2, Nodes(2, 1, "alpha:1234"))


@pytest.fixture
def launch(tmp_path):
    """Function: what a program's main does, processes -> its result under the launcher."""

    def run(body: str, processes: int) -> subprocess.CompletedProcess:
        (tmp_path / "program.py").write_text(
            f"from gendd.errors import UserError, run_program\ndef main():\n    {body}\nrun_program(main)\n"
        )
        return subprocess.run(
            [sys.executable, "-m", "gendd.launch", "program"],
            env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "CPU_PROCS": str(processes)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("processes", [1, 2])
def test_a_user_error_stays_one_line(launch, processes):
    result = launch("raise UserError('cannot work')", processes)
    assert (result.returncode, result.stderr) == (2, "error: cannot work\n")


def test_a_crash_is_told_as_it_happened(launch):
    result = launch("raise ValueError('broken')", 2)
    assert result.returncode == 1
    assert "ValueError: broken" in result.stderr
    assert "ended with exit code 1" in result.stderr.splitlines()[-1]


def test_output_that_nobody_reads_on_ends_without_a_traceback():
    command = f"{sys.executable} -m gendd_cifar.train --help | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert result.stdout.startswith("usage") and result.stderr == ""
