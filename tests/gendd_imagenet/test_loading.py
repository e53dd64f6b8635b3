"""Data workers and disks: a failed worker ends the training with one line, and temporary read errors are retried."""

import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import active_children
from pathlib import Path

import pytest
from faults import STALE, failing
from photos import assert_same, config, images_and_labels, open_evaluated, open_photos, refusal, write_images

from gendd.core import retry
from gendd.core.errors import PassingFault, with_flags
from gendd_imagenet.check import check_data
from gendd_imagenet.make_shards import main as make_shards

# More steps than the workers prefetch before a test disturbs them.
STEPS = range(60)


@pytest.fixture
def data(photos):
    return open_photos(config(photos, workers=2))


@pytest.fixture
def streamed(photos, tmp_path):
    make_shards([str(photos / "train"), str(tmp_path), "--images-per-shard", "10"])
    flags = {"steps_per_epoch": 60, "unlabeled": True, "contraction": 0, "eval_dataset": photos}
    return open_photos(config(f"{tmp_path}/{{00000..00008}}.tar", workers=2, **flags))


def fault(batches) -> str:
    """Return the one-line error that ends the training; assert that no worker is left."""
    with pytest.raises(PassingFault) as ended:
        list(batches)
    message = with_flags(str(ended.value))
    assert len(message.splitlines()) == 1 and "fewer --workers than 2" in message
    for worker in active_children():
        worker.join(5)
    assert not active_children()
    return message


@pytest.mark.parametrize(("source", "by"), [("data", signal.SIGKILL), ("streamed", signal.SIGBUS)])
def test_killed_worker_ends_the_training(source, by, request, monkeypatch):
    batches = request.getfixturevalue(source).batches(STEPS)
    next(batches)
    os.kill(active_children()[0].pid, by)
    # The error appears at the next batch, not in the middle of a step.
    time.sleep(0.5)
    assert f"a data worker was ended by {by.name}" in fault(batches)


class Unpicklable(Exception):
    def __init__(self, words: str):
        super().__init__(words)
        self.handle = lambda: None


@pytest.mark.parametrize("source", ["data", "streamed"])
def test_worker_exception_that_cannot_be_pickled_arrives(source, request):
    def view(*_):
        raise Unpicklable("no such codec\nnor another")

    data = request.getfixturevalue(source)
    data.view = view
    assert "a data worker failed (Unpicklable: nor another)" in fault(data.batches(STEPS))


def test_exception_without_workers_is_unchanged(photos):
    def view(*_):
        raise Unpicklable("no such codec")

    data = open_photos(config(photos))
    data.view = view
    with pytest.raises(Unpicklable):
        next(data.batches(STEPS))


def test_full_shared_memory_ends_the_training(data):
    view, (_, most) = data.view, resource.getrlimit(resource.RLIMIT_FSIZE)

    def without_room(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
        return view(*arguments)

    data.view = without_room
    message = fault(data.batches(STEPS))
    assert "a data worker failed (RuntimeError: " in message and "/dev/shm" in message
    assert "--workers 0 does not use shared memory" in message


def test_hanging_workers_end_before_the_process_group(data, monkeypatch):
    monkeypatch.setenv("PEER_TIMEOUT", "2")
    data.view = lambda *_: time.sleep(3600)
    begin = time.monotonic()
    assert "a data worker sent nothing for 2 s, 90% of PEER_TIMEOUT" in fault(data.batches(STEPS))
    assert time.monotonic() - begin < 10


def test_timeout_is_per_wait_not_per_epoch(data, monkeypatch):
    monkeypatch.setenv("PEER_TIMEOUT", "2")
    steps = []
    for batch in data.batches(range(6)):
        steps.append(batch.random.step)
        time.sleep(0.5)
    assert steps == list(range(6))


def test_workers_load_images_outside_the_main_thread(data):
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(images_and_labels, data, range(2)).result()
    assert_same(images_and_labels(data, range(2)), loaded)


# Temporary errors of disks and networks


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "PAUSES", (0, 0, 0))


def fail_reading(monkeypatch, times: int) -> None:
    """Let the first reads of images fail."""
    read, fails = Path.read_bytes, failing(Path.read_bytes, [STALE] * times)
    monkeypatch.setattr(Path, "read_bytes", lambda path: (fails if path.suffix == ".JPEG" else read)(path))


def test_temporarily_unreadable_images_are_read_again(photos, monkeypatch, no_pauses):
    settings = config(photos)
    undisturbed, evaluated = open_photos(settings), list(open_evaluated(settings).batches())
    whole = images_and_labels(undisturbed, range(3))
    fail_reading(monkeypatch, 3)
    disturbed = open_photos(settings)
    assert_same(images_and_labels(disturbed, range(3)), whole)
    assert disturbed.broken_images == 0
    fail_reading(monkeypatch, 3)
    assert_same([batch[1:] for batch in open_evaluated(settings).batches()], [batch[1:] for batch in evaluated])


@pytest.mark.parametrize("workers", [0, 2])
def test_long_unreadable_images_raise_no_user_error(workers, photos, monkeypatch, no_pauses):
    data, evaluated = (opening(config(photos, workers=workers)) for opening in (open_photos, open_evaluated))
    fail_reading(monkeypatch, 10**6)
    for batches in (data.batches(STEPS), evaluated.batches()):
        with pytest.raises(PassingFault, match="Stale file handle.*tried 4 times"):
            next(batches)
    assert data.broken_images == 0
    with pytest.raises(PassingFault, match="Stale file handle"):
        check_data(config(photos))


def test_image_without_permission_is_a_broken_one(photos, monkeypatch, capsys):
    denied, read = PermissionError(13, "Permission denied"), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", failing(read, [denied]))
    data = open_photos(config(photos))
    assert len(images_and_labels(data, range(2))) == 2 and data.broken_images == 1
    monkeypatch.setattr(Path, "read_bytes", failing(read, [denied]))
    assert "1 missing or broken" in refusal(check_data, config(photos))
    assert ".JPEG: Permission denied" in capsys.readouterr().out


def test_list_is_read_again_after_temporary_errors(photos, tmp_path, monkeypatch, no_pauses):
    (tmp_path / "list.txt").write_text("".join(f"train/n01/n01_{number}.JPEG 0\n" for number in range(30)))
    settings = config(photos, train_list=tmp_path / "list.txt")
    for name in ("read_text", "exists"):
        monkeypatch.setattr(Path, name, failing(getattr(Path, name), [STALE] * 3))
    assert open_photos(settings).size == 30
    monkeypatch.setattr(Path, "read_text", failing(Path.read_text, [STALE] * 4))
    with pytest.raises(PassingFault, match="list.txt"):
        open_photos(settings)


def test_make_shards_on_a_failing_disk_names_the_image(tmp_path, monkeypatch, no_pauses):
    write_images(tmp_path / "n01", 3)
    fail_reading(monkeypatch, 4)
    with pytest.raises(PassingFault, match="n01_"):
        make_shards([str(tmp_path / "n01"), str(tmp_path / "shards")])
