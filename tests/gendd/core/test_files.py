"""Atomic writes of files: failures, retries, and what killed writers leave."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import safetensors.torch
import torch
from faults import STALE, failing
from lines import refuses

from gendd.core import files, retry
from gendd.core.errors import PassingFault
from gendd.core.files import rewrite
from gendd.networks.checkpoint import read_weights

WEIGHTS = {"conv.weight": torch.arange(600.0).view(6, 100), "fc.bias": torch.tensor([1.0, -2.0])}


def written(path, content):
    path.write_bytes(content)
    return path


def assert_same(tensors, expected):
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def no_space(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device")


def failing_save(content, file):
    file.write(b"half a file")
    raise RuntimeError("unexpected pos 64 vs 0\nsecond line")


SAVES = [files.save, files.save_tensors]


@pytest.mark.parametrize("save", SAVES)
def test_save_replaces_file_and_leaves_no_temporary_one(save, tmp_path):
    path = written(tmp_path / "last.safetensors", b"old")
    path = path if save is files.save_tensors else path.rename(tmp_path / "last.pt")
    save(path, WEIGHTS)
    assert_same(read_weights(path), WEIGHTS)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("save", "module", "name", "failure"),
    [
        (files.save, torch, "save", failing_save),
        (files.save, os, "fsync", no_space),
        (files.save, os, "replace", no_space),
        (files.save_tensors, os, "fsync", no_space),
        (files.save_tensors, os, "replace", no_space),
    ],
)
def test_failed_write_keeps_the_old_file(save, module, name, failure, tmp_path, monkeypatch):
    path = written(tmp_path / "last.pt", b"old")
    monkeypatch.setattr(module, name, failure)
    with refuses("cannot write .*last.pt: .*(No space left|unexpected pos)") as caught:
        save(path, WEIGHTS)
    assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def of_torch(fault):
    """Return the error that torch.save raises for a disk error."""
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__context__ = fault
    return error


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [(torch, "save", of_torch), (os, "fsync", lambda fault: fault), (os, "replace", lambda fault: fault)],
    ids=["save", "fsync", "replace"],
)
def test_save_retries_temporary_write_errors(module, name, fault, tmp_path, monkeypatch):
    """Lasting errors raise PassingFault, not a user error, because a user error would end the restarts."""
    monkeypatch.setattr(retry, "PAUSES", (0, 0))
    path, working = written(tmp_path / "last.pt", b"old"), getattr(module, name)
    monkeypatch.setattr(module, name, failing(working, [fault(STALE) for _ in range(3)]))
    with pytest.raises(PassingFault, match="last.pt cannot be written .*Stale file handle.*tried 3 times"):
        files.save(path, WEIGHTS)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    monkeypatch.setattr(module, name, failing(working, [fault(STALE) for _ in range(2)]))
    files.save(path, WEIGHTS)
    assert_same(read_weights(path), WEIGHTS)


@pytest.mark.parametrize("save", SAVES)
def test_read_retries_temporary_errors(save, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "PAUSES", (0, 0))
    module, name = (torch, "load") if save is files.save else (safetensors.torch, "load_file")
    save(tmp_path / "weights", WEIGHTS)
    working = getattr(module, name)
    monkeypatch.setattr(module, name, failing(working, [STALE] * 2))
    assert_same(read_weights(tmp_path / "weights"), WEIGHTS)
    monkeypatch.setattr(module, name, failing(working, [STALE] * 3))
    with pytest.raises(PassingFault, match="weights cannot be read"):
        read_weights(tmp_path / "weights")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("save", SAVES)
def test_full_disk_is_named_and_keeps_the_old_file(save, tmp_path):
    path = written(tmp_path / "last.pt", b"old")
    (tmp_path / "last.pt.tmp").symlink_to("/dev/full")
    with refuses("cannot write .*last.pt: .*No space left.*free some space"):
        save(path, {"a": torch.ones(300_000)})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_save_into_missing_folder_is_refused(tmp_path):
    with refuses("cannot write .*No such file"):
        files.save(tmp_path / "none" / "last.pt", WEIGHTS)


def test_temporary_file_of_a_killed_writer_is_removed(tmp_path):
    """The temporary file of a live writer stays."""

    def killed(file) -> None:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def slow(file) -> None:
        ready.set()
        done.wait()
        file.write(b"whole")

    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    writers = [context.Process(target=rewrite, args=(tmp_path / "figures", write, True)) for write in (killed, slow)]
    writers[0].start()
    writers[0].join()
    assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
    writers[1].start()
    ready.wait()
    rewrite(tmp_path / "others", lambda file: file.write(b"whole"), shared=True)
    done.set()
    writers[1].join()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"figures": b"whole", "others": b"whole"}


def test_checksum_is_sha256(tmp_path):
    path = written(tmp_path / "a", b"abc")
    assert files.checksum(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
