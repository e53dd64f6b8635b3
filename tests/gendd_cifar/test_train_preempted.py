"""Checkpoints within an epoch, and trainings that SIGTERM or SIGUSR1 stops."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from lines import refuses
from programs import train_cifar as main
from small_runs import (
    GENDD,
    TOYS,
    assert_same_weights,
    contents,
    ctrl_c,
    run_in_two_processes,
    timeless_metrics,
    weights,
)

from gendd.core.stopping import START_AGAIN, Preempted, Stopping
from gendd.distillation import teacher_cache
from gendd.programs.main import main as run_named
from gendd.runs.metrics import read_metrics
from gendd.training.loop import Training

# The runs have 18 steps per epoch.
STEPS = 18


def saved_step(run: Path) -> int:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"]


@pytest.fixture
def trained_steps(monkeypatch) -> list[int]:
    """Return the list of the steps that trainings make from now on."""
    steps, train_step = [], Training.train_step

    def noted(self, *arguments):
        steps.append(self.step)
        return train_step(self, *arguments)

    monkeypatch.setattr(Training, "train_step", noted)
    return steps


@pytest.mark.parametrize("flags", [(), ("--ema-decay", "0.9", "--optimizer", "muon")])
def test_run_resumes_within_an_epoch_to_the_same_bits(train, whole, trained_steps, flags):
    whole = train(*flags, runs="whole") if flags else whole
    with ctrl_c("train_step", step=25):
        train(*flags, "--checkpoint-steps", "7", runs="parts")
    assert saved_step(train.folder("parts")) == 21
    trained_steps.clear()
    parts = train(*flags, runs="parts")
    assert trained_steps == [*range(21, 3 * STEPS)]
    assert_same_weights(whole, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)


def test_resume_within_an_epoch_evaluates_only_whole_epochs(train):
    """The weights of the last whole epoch are gone, so that another --eval-every does not evaluate it."""
    with ctrl_c("train_step", step=25):
        train("--checkpoint-steps", "7", "--eval-every", "3")
    run = train("--eval-every", "1")
    evaluated = [(record["epoch"], record["step"]) for record in read_metrics(run) if record["kind"] == "eval"]
    assert evaluated == [(epoch, epoch * STEPS) for epoch in (2, 3)]


def test_checkpoints_follow_the_clock_and_are_kept(train, trained_steps, monkeypatch):
    """Each step takes an hour."""
    monkeypatch.setattr("gendd.training.loop.time.monotonic", lambda: 3600.0 * len(trained_steps))
    run = train("--checkpoint-minutes", "90", "--keep-checkpoints", "3", "--epochs", "1")
    kept = sorted(path.name for path in (run / "checkpoints").glob("step-*.pt"))
    assert kept == [f"step-{step:09d}.pt" for step in (14, 16, 18)]
    newest = torch.load(run / "checkpoints" / kept[-1], weights_only=True)
    assert newest["step"] == saved_step(run) == STEPS and newest["epoch"] == 1
    within = torch.load(run / "checkpoints" / kept[0], weights_only=True)
    assert (within["step"], within["epoch"]) == (14, 0.77)


def test_speed_of_an_interrupted_epoch_is_that_of_all_its_steps(train, trained_steps, monkeypatch):
    """Each of the 18 steps of 64 images takes an hour."""
    monkeypatch.setattr("gendd.training.loop.time.perf_counter", lambda: 3600.0 * len(trained_steps))
    flags = ["--epochs", "1", "--checkpoint-steps", "5"]
    with ctrl_c("train_step", step=10):
        train(*flags)
    (record,) = (record for record in read_metrics(train(*flags)) if record["kind"] == "train")
    assert len(trained_steps) == STEPS and record["images_per_second"] == pytest.approx(64 / 3600)


def test_checkpoint_within_an_epoch_holds_no_bad_weights(train, monkeypatch):
    train_step = Training.train_step

    def spoiled(self, *arguments):
        train_step(self, *arguments)
        if self.step == 4:
            next(self.task.model().parameters()).data.fill_(torch.nan)

    with monkeypatch.context() as patch, refuses("is not finite at step 6, .*the last good checkpoint is"):
        patch.setattr(Training, "train_step", spoiled)
        train("--checkpoint-steps", "2")
    assert saved_step(train.folder()) == 4
    assert all(value.isfinite().all() for value in weights(train.folder()).values())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_after_the_step_and_resumes(train, whole, monkeypatch, capsys, number):
    train_step = Training.train_step

    def signalled(self, *arguments):
        if self.step == 25:
            os.kill(os.getpid(), number)
        return train_step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Training, "train_step", signalled)
        train(runs="parts")
    assert "\nstopped in epoch 2 of 3, after step 26; run the same command again" in capsys.readouterr().err
    assert saved_step(train.folder("parts")) == 26
    parts = train(runs="parts")
    assert "resuming in epoch 2 of 3, after step 26" in capsys.readouterr().out
    assert_same_weights(whole, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)


def test_second_sigterm_ends_at_once_with_the_saved_state(train, whole, monkeypatch, capsys):
    train_step = Training.train_step

    def twice(self, *arguments):
        if self.step == 25:
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(Training, "train_step", twice)
        train(runs="parts")
    assert "\nstopped after epoch 1 of 3; run the same command again" in capsys.readouterr().err
    assert_same_weights(whole, train(runs="parts"), rtol=0, atol=0)


def test_signal_in_an_evaluation_ends_at_once(train, monkeypatch):
    def signalled(self):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Training, "evaluate_epoch", signalled)
    with pytest.raises(Preempted):
        train(runs="parts")
    assert saved_step(train.folder("parts")) == STEPS


def test_signal_before_the_training_ends_with_one_line(monkeypatch, capsys):
    """The signal arrives during the imports."""
    monkeypatch.setattr("gendd.runs.published.located", lambda run: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted):
        run_named("gendd_cifar", ["train", "kd"])
    remedy = "run the same command again to start or resume it"
    assert capsys.readouterr().err == f"\nstopped before the training; {remedy}\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_signal_in_a_cache_fill_keeps_its_shards(teacher, tmp_path, monkeypatch, capsys):
    flags = [*GENDD, "--epochs", "2", "--teacher-weights", str(teacher), "--cached-views", "2"]
    write, shards = teacher_cache.write_whole, []

    def signalled(path, *arguments, **options):
        if path.name.startswith("view-"):
            shards.append(path.name)
            if len(shards) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
        write(path, *arguments, **options)

    def train(name: str) -> Path:
        words = [*flags, "--teacher-cache", str(tmp_path / f"{name}-cache"), "--out", str(tmp_path / name)]
        run_named("gendd_cifar", ["train", *words])
        return tmp_path / name

    with monkeypatch.context() as patch, pytest.raises(Preempted):
        patch.setattr(teacher_cache, "write_whole", signalled)
        train("stopped")
    assert "\nstopped before the training; run the same command again" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "stopped-cache").iterdir()) == ["cache.json", shards[0]]
    resumed, undisturbed = train("stopped"), train("undisturbed")
    assert "1 of 2 shards to compute" in capsys.readouterr().out
    assert_same_weights(undisturbed, resumed, rtol=0, atol=0)
    one, other = (contents(tmp_path / f"{name}-cache") for name in ("stopped", "undisturbed"))
    assert [*one.values()] == [*other.values()]


def test_training_in_a_thread_leaves_the_signals_alone():
    """Python lets only the main thread set their handlers."""
    ended = []

    def block() -> None:
        with Stopping().handling(str):
            ended.append(True)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert ended == [True] and signal.getsignal(signal.SIGTERM) == before


def test_signal_to_one_process_stops_both_at_one_step(whole, teacher, tmp_path):
    """Then one process resumes what two have begun."""
    flags = [*GENDD, "--teacher-weights", str(teacher), "--runs", str(tmp_path)]
    fault = {"FAULT": "preempt", "FAULT_MARK": str(tmp_path / "mark")}
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        run_in_two_processes(*flags, program="faulty", **fault)
    assert stopped.value.returncode == START_AGAIN
    assert re.search(r"\nstopped in epoch 2 of 3, after step 2[67]; run the same command again", stopped.value.stderr)
    assert "Traceback" not in stopped.value.stderr
    main(flags)
    resumed = tmp_path / "digits" / "toy.network_toy.network" / "gendd" / "0"
    assert_same_weights(whole, resumed, rtol=1e-3, atol=1e-4)
    for one, two in zip(timeless_metrics(whole), timeless_metrics(resumed), strict=True):
        assert one.get("loss") == pytest.approx(two.get("loss"), abs=1e-4)


def test_sigterm_to_the_launcher_stops_all_processes(tmp_path):
    command = [sys.executable, "-m", "gendd.launch", "gendd_cifar", "train", "classification", "--dataset", "digits"]
    command += ["--student", "toy:network", "--image-size", "8", "--epochs", "100000", "--runs", str(tmp_path)]
    environment = os.environ | {"CPU_PROCS": "2", "OMP_NUM_THREADS": "1", "PYTHONPATH": TOYS, "MAX_RESTARTS": "3"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        next(line for line in process.stdout if line.startswith("epoch   2/100000  train"))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == START_AGAIN
    assert "Traceback" not in said and re.search(r"\nstopped (in|after) epoch \d+ of 100000", said)
