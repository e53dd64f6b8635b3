"""Progress of a training, and its message when it is stopped."""

import io
import re
import signal
import sys
import time

import pytest
from forked import PATIENCE, Forked
from programs import train_cifar

from gendd.training import progress
from gendd.training.progress import Progress, say


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_stopped_run_prints_where_it_stopped(number, code, tmp_path):
    words = ["classification", "--dataset", "digits", "--student", "toy:network", "--image-size", "8"]
    words += ["--epochs", "100000", "--eval-every", "100000", "--out", str(tmp_path / "run")]

    def train() -> None:
        # A shell that starts the tests in the background makes them ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        train_cifar(words)

    process, metrics = Forked(train, tmp_path), tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (metrics.exists() and metrics.read_text().count('"train"') > 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send(number)
    ended = process.wait()
    assert ended.code == code, ended.error
    assert "Traceback" not in ended.error
    reached = r"(after epoch \d+ of 100000|in epoch \d+ of 100000, after step \d+)"
    assert re.search(rf"\nstopped {reached}; run the same command again to resume \(\S+/last.pt\)\n", ended.error)
