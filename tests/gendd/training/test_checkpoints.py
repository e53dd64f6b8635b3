"""Checkpoints in the background: what they hold, how many stay, and their errors."""

import errno
import os
import threading

import pytest
import torch

from gendd.core import files
from gendd.core.errors import UserError
from gendd.training.checkpoints import Checkpoints


def raises(error):
    def call(*_):
        raise error

    return call


def read(path):
    return torch.load(path, weights_only=True)


def test_checkpoint_holds_the_values_at_its_call(tmp_path, monkeypatch):
    """The training changes its weights while the file is written."""
    may_write, save = threading.Event(), files.save
    monkeypatch.setattr(files, "save", lambda *arguments: may_write.wait() and save(*arguments))
    weights, path = torch.zeros(3), tmp_path / "last.pt"
    with Checkpoints(path) as checkpoints:
        checkpoints.write({"model": {"weight": weights}, "step": 1}, 1)
        weights += 1
        assert not path.exists()
        may_write.set()
    assert read(path)["model"]["weight"].tolist() == [0, 0, 0] and read(path)["step"] == 1


@pytest.mark.parametrize("links", [True, False])
def test_newest_checkpoints_stay(tmp_path, monkeypatch, links):
    """Some file systems do not have hard links."""
    if not links:
        monkeypatch.setattr(os, "link", raises(PermissionError(errno.EPERM, "Operation not permitted")))
    with Checkpoints(tmp_path / "last.pt", kept=2) as checkpoints:
        for step in (1, 2, 30):
            checkpoints.write({"step": step}, step)
    assert {path.name: read(path)["step"] for path in tmp_path.iterdir()} == {
        "last.pt": 30,
        "step-000000002.pt": 2,
        "step-000000030.pt": 30,
    }


def test_failed_write_is_raised_and_keeps_the_last_file(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "last.pt")
    checkpoints.write({"step": 1}, 1)
    checkpoints.wait()

    def full(*_):
        raise UserError("cannot write last.pt: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "save", full)
        checkpoints.write({"step": 2}, 2)
        with pytest.raises(UserError, match="No space left"):
            checkpoints.write({"step": 3}, 3)
    checkpoints.write({"step": 4}, 4)
    checkpoints.wait()
    assert read(tmp_path / "last.pt")["step"] == 4
