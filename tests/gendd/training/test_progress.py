"""Progress of a training, and its message when it is stopped."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gendd.training import progress
from gendd.training.progress import Progress, say

ROOT = Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return a function that trains some steps of 2 s each; a run has 20 epochs of 50 steps of 30 images."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def run(first: int, last: int, shown: bool = True, first_takes: float = 2) -> None:
        with Progress(20, 1000, first - 1, 30, shown) as shower:
            for step in range(first, last + 1):
                if step in (first, 51):
                    shower.begin_epoch((step - 1) // 50 + 1, step - 1)
                now[0] += first_takes if step == first else 2
                shower.advance(step, lambda: 2.5)
            say("epoch line")

    return run


def test_file_gets_one_line_per_minute(clock, capsys):
    clock(1, 65)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["epoch   1/20  step   30/1000  loss 2.5  15 images/s  0:32:20 left", "epoch line"]


def test_time_left_counts_steps_since_this_start(clock, capsys):
    clock(901, 940)
    assert "step  930/1000  loss 2.5  15 images/s  0:02:20 left" in capsys.readouterr().out


@pytest.fixture
def lefts(monkeypatch):
    """Return the list of the remaining times after each step."""
    advance, lefts = Progress.advance, []

    def advanced(shower, step, loss):
        advance(shower, step, loss)
        lefts.append(shower.left(step))

    monkeypatch.setattr(Progress, "advance", advanced)
    return lefts


def test_epoch_line_ends_with_time_left(clock, lefts):
    clock(991, 1000)
    assert lefts[:2] == ["", "  0:00:16 left"] and lefts[-1] == ""


def test_time_left_leaves_out_a_slow_first_step(clock, lefts, capsys):
    clock(991, 1000, first_takes=600)
    assert lefts[1] == "  0:00:16 left"
    assert capsys.readouterr().out.startswith("epoch  20/20  step  991/1000  loss 2.5  0 images/s\n")


def test_terminal_gets_a_bar_of_the_whole_run(clock, monkeypatch):
    output, bar = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", bar)
    clock(1, 40)
    assert output.getvalue() == "epoch line\n"
    assert "epoch   1/20" in bar.getvalue() and "1000" in bar.getvalue() and "step" in bar.getvalue()


def test_bar_leaves_out_a_slow_first_step(clock, monkeypatch):
    bar = Terminal()
    monkeypatch.setattr(sys, "stderr", bar)
    monkeypatch.setattr("tqdm.std.time", progress.time.monotonic)
    clock(501, 540, first_takes=600)
    assert "540/1000 [01:18<15:20,  2.00s/step]" in bar.getvalue()


def test_other_processes_print_no_progress(clock, capsys):
    clock(1, 100, shown=False)
    assert capsys.readouterr() == ("epoch line\n", "")


@pytest.fixture
def started(tmp_path):
    """Return a function that starts a training as a process, and returns it after its first epochs."""

    def start() -> subprocess.Popen:
        command = [sys.executable, "-u", "-m", "gendd_cifar", "train", "classification", "--dataset", "digits"]
        command += ["--student", "toy:network", "--image-size", "8", "--epochs", "100000", "--eval-every", "100000"]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'toys'}"}
        process = subprocess.Popen(
            [*command, "--runs", str(tmp_path)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A shell that starts the tests in the background makes them ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        for line in process.stdout:
            if line.startswith("epoch   3/100000  train"):
                break
        return process

    return start


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_stopped_run_prints_its_last_epoch(started, number, code):
    process = started()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    assert re.search(
        r"\nstopped after epoch [2-9] of 100000; run the same command again to resume \(\S+/last.pt\)\n", said
    )
