"""One writer per folder: a second one is refused and a dead one ignored, on one machine or several."""

import multiprocessing
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from lines import refuses

from gendd.core.errors import UserError
from gendd.runs import lock
from gendd.runs.lock import NAME, sole_writer

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 0.6)


@pytest.fixture
def writer():
    """Return a function that starts a process, on a given host, which writes to a folder until it is killed."""
    started = []

    def start(folder: Path, host: str | None = None):
        ready = FORK.Event()
        started.append(FORK.Process(target=_write_on, args=(folder, ready, host or socket.gethostname())))
        started[-1].start()
        assert ready.wait(20)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def _write_on(folder: Path, ready, host: str) -> None:
    socket.gethostname = lambda: host
    with sole_writer(folder):
        ready.set()
        threading.Event().wait()


def refusal(folder: Path) -> str:
    with refuses() as refused, sole_writer(folder):
        pass
    assert len(refused.value.splitlines()) == 1
    return refused.value


def test_second_writer_is_refused_and_names_the_first(tmp_path, writer):
    first = writer(tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for _ in range(2):
        message = refusal(tmp_path / "run")
        assert f"process {first.pid} on {socket.gethostname()}" in message and str(tmp_path / "run") in message
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_killed_writer_frees_the_folder_at_once(tmp_path, writer, monkeypatch):
    first = writer(tmp_path / "run")
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    monkeypatch.setattr(lock, "SILENCE", 3600)
    with sole_writer(tmp_path / "run"):
        assert f"pid={os.getpid()}\n" in (tmp_path / "run" / NAME).read_text()
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_fork_of_a_killed_writer_does_not_hold_the_folder(tmp_path):
    ready, pid = FORK.Event(), FORK.Value("i")

    def write_and_fork():
        with sole_writer(tmp_path):
            worker = FORK.Process(target=signal.pause)
            worker.start()
            pid.value = worker.pid
            ready.set()
            worker.join()

    first = FORK.Process(target=write_and_fork)
    first.start()
    assert ready.wait(20)
    first.kill()
    first.join()
    try:
        with sole_writer(tmp_path):
            pass
    finally:
        os.kill(pid.value, signal.SIGKILL)


def test_writer_on_another_machine_counts_until_silent(tmp_path, writer):
    first = writer(tmp_path, "elsewhere")
    assert f"process {first.pid} on elsewhere is writing" in refusal(tmp_path)
    first.kill()
    first.join()
    with sole_writer(tmp_path):
        assert f"pid={os.getpid()}\n" in (tmp_path / NAME).read_text()


def test_empty_run_folder_is_removed(tmp_path):
    with refuses("no such network"), sole_writer(tmp_path / "runs" / "set" / "0"):
        raise UserError("no such network")
    assert not list(tmp_path.iterdir())
    with sole_writer(tmp_path / "runs" / "set" / "0"):
        (tmp_path / "runs" / "set" / "0" / "metrics.jsonl").touch()
    assert [path.name for path in (tmp_path / "runs" / "set" / "0").iterdir()] == ["metrics.jsonl"]


def test_folder_that_another_writer_removes_is_made_again(tmp_path, monkeypatch):
    """Even three times, each time just before the file of the lock is opened."""
    folder, acquire, left = tmp_path / "new", lock.SoftFileLease.acquire, [1, 2, 3]

    def removed_before(lease, **options):
        if left:
            left.pop()
            folder.rmdir()
            Path(lease.lock_file).touch()
        return acquire(lease, **options)

    monkeypatch.setattr(lock.SoftFileLease, "acquire", removed_before)
    with sole_writer(folder):
        assert (folder / NAME).is_file()
    assert not left


def test_run_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    assert "--runs" in refusal(tmp_path / "file" / "run")


def test_patient_writer_waits_for_the_first(tmp_path, writer):
    first = writer(tmp_path / "cache")
    timer = threading.Timer(0.3, first.kill)
    timer.start()
    with sole_writer(tmp_path / "cache", "teacher_cache", patience=20):
        assert not first.is_alive()


def test_folder_below_a_file_is_refused_by_its_setting(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "report"
    with refuses(f"^--output {folder}: cannot be written .Not a directory."), sole_writer(folder, "output"):
        pass
