"""Retries: which errors are retried, how often, and how they end."""

import errno
import os
import urllib.error

import pytest
from faults import STALE, failing
from lines import refuses

from gendd.core import retry
from gendd.core.errors import PassingFault
from gendd.core.retry import retried
from gendd.data.image_files import list_images


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """Record pauses instead of sleeping."""
    made = []
    monkeypatch.setattr(retry.time, "sleep", made.append)
    return made


@pytest.mark.parametrize(
    "fault",
    [
        *(OSError(getattr(errno, name), name) for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EMFILE", "ENOMEM")),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ConnectionError("its command ended with exit code 56"),
        TimeoutError(),
        urllib.error.HTTPError("http://host/a.jpg", 503, "busy", None, None),
    ],
    ids=str,
)
def test_retry_waits_longer_each_time(fault, pauses, capsys):
    assert retried(failing(lambda: "content", [fault] * len(retry.PAUSES)), "a.jpg") == "content"
    assert pauses == sorted(pauses) == list(retry.PAUSES)
    assert capsys.readouterr().err.count("a.jpg cannot be read") == len(pauses)
    with pytest.raises(PassingFault, match="^a.jpg cannot be read .* tried 5 times") as ended:
        retried(failing(lambda: "content", [fault] * (len(retry.PAUSES) + 1)), "a.jpg")
    assert len(str(ended.value).splitlines()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        FileNotFoundError(errno.ENOENT, "none"),
        PermissionError(errno.EACCES, "denied"),
        IsADirectoryError(errno.EISDIR, "folder"),
        NotADirectoryError(errno.ENOTDIR, "file"),
        OSError(errno.ENOSPC, "full"),
        OSError("image file is truncated"),
        urllib.error.HTTPError("http://host/a.jpg", 404, "none", None, None),
    ],
    ids=str,
)
def test_retry_raises_permanent_error_at_once(fault, pauses):
    with pytest.raises(type(fault)) as ended:
        retried(failing(lambda: "content", [fault]), "a.jpg")
    assert ended.value is fault and not pauses


def test_listing_a_folder_retries_temporary_errors(tmp_path, monkeypatch, pauses):
    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(os, "scandir", failing(os.scandir, [STALE, STALE]))
    assert list(list_images(tmp_path).names) == [b"a.jpg"] and len(pauses) == 2
    monkeypatch.setattr(os, "scandir", failing(os.scandir, [STALE] * 9))
    with pytest.raises(PassingFault):
        list_images(tmp_path)
    monkeypatch.setattr(os, "scandir", failing(os.scandir, [PermissionError(errno.EACCES, "denied")]))
    with refuses("cannot be listed"):
        list_images(tmp_path)
