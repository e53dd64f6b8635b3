"""Shards that fail in the middle of reading: the images do not change, or the error names the cause."""

import io
import random
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import webdataset
from faults import STALE
from photos import assert_same, config, images_and_labels, open_photos, refusal

from gendd.core import retry
from gendd.core.errors import PassingFault
from gendd_imagenet.make_shards import main as make_shards
from gendd_imagenet.shard_stream import ShardStream
from gendd_imagenet.shards import UnreadableShard, images_of

TRIES = 4


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retry, "PAUSES", (0,) * (TRIES - 1))


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """Write 90 images in 3 shards."""
    output = tmp_path_factory.mktemp("shards")
    make_shards([str(photos / "train"), str(output), "--images-per-shard", "30"])
    return output


class BreakingOff(io.BytesIO):
    """A file that raises an error when reading beyond a position."""

    def __init__(self, content: bytes, end: int):
        super().__init__(content)
        self.end = end

    def read(self, size: int) -> bytes:
        if self.tell() + size > self.end:
            raise STALE
        return super().read(size)


@pytest.fixture
def breaking(monkeypatch) -> list[str]:
    """Make shards fail after some thousand bytes, or when opened; return the list of opened shards."""
    opened, ends, whole = [], {}, webdataset.gopen
    rng = random.Random(0)

    def gopen(shard: str):
        opened.append(shard)
        if rng.random() < 0.3:
            raise STALE
        content = whole(shard).read()
        ends[shard] = ends.get(shard, 0) + rng.randrange(20_000, 60_000)
        return BreakingOff(content, ends[shard])

    monkeypatch.setattr(webdataset, "gopen", gopen)
    return opened


def test_failing_shard_stream_gives_each_image_once_in_order(folder, request):
    shard = str(folder / "00000.tar")
    undisturbed = list(images_of(shard))
    assert len(undisturbed) == 30
    opened = request.getfixturevalue("breaking")
    assert list(images_of(shard)) == undisturbed and len(opened) > 4


def test_training_from_failing_shards_is_unchanged(photos, folder, request):
    flags = {"steps_per_epoch": 15, "unlabeled": True, "contraction": 0, "eval_dataset": photos}
    settings = config(f"{folder}/{{00000..00002}}.tar", **flags)
    undisturbed = images_and_labels(open_photos(settings, batch=6), range(15))
    opened = request.getfixturevalue("breaking")
    assert_same(images_and_labels(open_photos(settings, batch=6), range(15)), undisturbed)
    assert len(opened) > 12


def failing_command(shard: Path, count: Path, failures: int, size: int) -> str:
    """Return a command that writes `size` bytes and fails, `failures` times, and then writes the whole shard."""
    fail = f"{{ head -c {size} {shard}; exit 56; }}"
    return f"pipe:echo >> {count}; [ $(wc -l < {count}) -gt {failures} ] || {fail}; cat {shard}"


@pytest.mark.parametrize("size", [0, 512, 10_240, 50_000])
def test_failing_shard_command_is_repeated_without_duplicates(size, folder, tmp_path):
    shard, count = folder / "00000.tar", tmp_path / "count"
    stream = ShardStream(failing_command(shard, count, TRIES - 1, size))
    content = b"".join(iter(lambda: stream.read(10_240), b""))
    assert content == shard.read_bytes() and len(count.read_text()) == TRIES


@pytest.mark.parametrize("size", [0, 512, 50_000])
def test_always_failing_command_is_no_user_error(size, folder, tmp_path):
    command = failing_command(folder / "00000.tar", tmp_path / "count", TRIES, size)
    with pytest.raises(PassingFault, match="its command ended with exit code 56.*tried 4 times") as ended:
        list(images_of(command))
    assert len(ended.value.args) == 1


def test_missing_shard_command_is_refused_at_once(capfd):
    with pytest.raises(UnreadableShard, match="exit code 127"):
        list(images_of("pipe:no-such-command-here"))
    assert "trying again" not in capfd.readouterr().err


@pytest.fixture
def server():
    """Start a server that answers with the status in the path, such as /404/; return its address."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(int(self.path.split("/")[1]))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.parametrize(("code", "words"), [(404, "Not Found"), (403, "Forbidden")])
def test_absent_or_forbidden_address_is_refused_at_once(code, words, server, capfd):
    with pytest.raises(UnreadableShard, match=f"{server}/{code}/0.tar cannot be read .HTTP Error {code}: {words}"):
        list(images_of(f"{server}/{code}/0.tar"))
    assert "trying again" not in capfd.readouterr().err


def test_server_error_is_no_user_error(server):
    with pytest.raises(PassingFault, match="its command ended with exit code 22.*tried 4 times"):
        list(images_of(f"{server}/507/0.tar"))


def test_shard_that_changes_between_tries_is_refused(folder, tmp_path, monkeypatch):
    shard = Path(shutil.copy(folder / "00000.tar", tmp_path))
    stream = ShardStream(str(shard))
    stream.read(30_000)
    shard.write_bytes(shard.read_bytes()[:20_000])
    stream.source = BreakingOff(b"", 0)
    with pytest.raises(OSError, match="ends 10000 bytes before"):
        stream.read(512)


def test_truncated_shard_is_refused_at_once(photos, folder, tmp_path, capfd):
    shard = tmp_path / "short.tar"
    shard.write_bytes((folder / "00000.tar").read_bytes()[:50_000])
    flags = {"steps_per_epoch": 5, "unlabeled": True, "contraction": 0, "eval_dataset": photos}
    for name in (str(shard), f"pipe:cat {shard}"):
        message = refusal(images_and_labels, open_photos(config(name, **flags)), range(5))
        assert f"{name} cannot be read" in message
    assert "trying again" not in capfd.readouterr().err
