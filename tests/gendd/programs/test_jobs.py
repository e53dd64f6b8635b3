"""Trainings on a cluster whose machine is taken away."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gendd.programs.jobs import Job, OnCluster

# Its first start waits for the signal, saves for a second and ends with 75; the second start completes.
TRAINING = """
import pathlib, signal, sys, time
saved = pathlib.Path(sys.argv[1], "saved")
if saved.exists():
    print("results in the-run")
    sys.exit()
def save(*_):
    time.sleep(1)
    saved.touch()
    sys.exit(75)
signal.signal(signal.SIGUSR1, save)
pathlib.Path(sys.argv[1], "started").touch()
time.sleep(60)
"""


def test_job_names_its_gpu_if_the_machine_has_one(tmp_path, capsys):
    job = Job("kd 0", (sys.executable, "-c", "print('results in runs/0')"), tmp_path / "log")
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    assert job.train(environment | {"GPUS": "1"}) == "runs/0"
    assert "kd 0: started, " in capsys.readouterr().out
    assert job.train(environment | {"GPUS": "1", "CUDA_VISIBLE_DEVICES": "3"}) == "runs/0"
    assert "kd 0: started on GPU 3, " in capsys.readouterr().out


def test_preempted_job_saves_and_is_submitted_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    for name in [name for name in sys.modules if name.partition(".")[0] == "submitit"]:
        monkeypatch.delitem(sys.modules, name)  # It reads the variable when it is imported.
    submitit = pytest.importorskip("submitit", reason="needs the optional package submitit")
    executor = submitit.AutoExecutor(tmp_path / "cluster", cluster="local")
    executor.update_parameters(timeout_min=5)
    command = (sys.executable, "-c", TRAINING, str(tmp_path))
    job = executor.submit(OnCluster(Job("kd 0", command, tmp_path / "log")))
    while not (tmp_path / "started").exists():
        assert job.state == "RUNNING", job.stderr()
        time.sleep(0.1)
    # The local controller does not pass the signal on, as Slurm does.
    (task,) = Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR1)
    assert job.result() == "the-run"
    assert (tmp_path / "saved").exists()
