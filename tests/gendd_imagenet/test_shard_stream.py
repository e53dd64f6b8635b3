"""Shards that fail in the middle of reading: the images do not change, or the error names the cause."""

import io
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import yarl
from faults import STALE
from photos import assert_same, config, images_and_labels, open_photos, refusal
from range_server import serving

from gendd.core import retry
from gendd.core.errors import PassingFault
from gendd_imagenet import shard_stream, shards
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
    opened, ends, whole = [], {}, shard_stream._opened
    rng = random.Random(0)

    def breaking_off(shard: str, position: int):
        if not shard.endswith(".tar"):
            return whole(shard, position)
        opened.append(shard)
        if rng.random() < 0.3:
            raise STALE
        with whole(shard, 0)[0] as file:
            content = file.read()
        ends[shard] = ends.get(shard, 0) + rng.randrange(20_000, 60_000)
        return BreakingOff(content, ends[shard]), 0

    monkeypatch.setattr(shard_stream, "_opened", breaking_off)
    # The content would otherwise be one read.
    monkeypatch.setattr(shards, "BLOCK", 4096)
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


def read(shard: str) -> bytes:
    with ShardStream(shard) as stream:
        return b"".join(iter(lambda: stream.read(10_240), b""))


@pytest.mark.parametrize(("code", "words"), [(404, "absent/0.tar"), (403, "403"), (410, "410")])
def test_absent_or_forbidden_address_is_refused_at_once(code, words, folder, capfd):
    with serving(folder, fault=lambda number, start: code) as (address, _):
        name = "absent/0.tar" if code == 404 else "00000.tar"
        with pytest.raises(UnreadableShard, match=f"{address}/{name} cannot be read .*({words})"):
            list(images_of(f"{address}/{name}"))
    assert "trying again" not in capfd.readouterr().err


@pytest.mark.parametrize("address", ["file:///etc/passwd", "/00000.tar"])
def test_endless_or_foreign_redirect_is_refused_at_once(address, folder, capfd):
    with (
        serving(folder, fault=lambda number, start: address) as (server, _),
        pytest.raises(UnreadableShard, match="Redirect"),
    ):
        list(images_of(f"{server}/00000.tar"))
    assert "trying again" not in capfd.readouterr().err


@pytest.mark.parametrize("code", [403, 503])
def test_signature_of_a_redirect_is_not_shown(code, folder, capfd):
    with serving(folder, fault=lambda number, start: code if number % 2 else "/00001.tar?sig=secret") as (server, _):
        (folder / "00001.tar?sig=secret").write_bytes((folder / "00001.tar").read_bytes())
        with pytest.raises((UnreadableShard, PassingFault), match=f"{code}.*/00001.tar\\?\\.\\.\\.") as told:
            list(images_of(f"{server}/00000.tar"))
    (folder / "00001.tar?sig=secret").unlink()
    assert "secret" not in f"{told.value}{capfd.readouterr().err}"


class Answer:
    """An HTTP answer that states no range."""

    def __init__(self, address: str, status: int):
        self.url, self.status, self.headers = yarl.URL(address), status, {}


@pytest.mark.parametrize(
    ("address", "status", "reason"),
    [("http://host/0.tar", 200, "redirected to http://"), ("https://host/0.tar", 206, "without saying which")],
)
def test_answer_that_is_insecure_or_unplaced_is_refused(address, status, reason, monkeypatch):
    source = SimpleNamespace(r=Answer(address, status), close=lambda: None)
    files = SimpleNamespace(open=lambda url, mode, **options: source)
    monkeypatch.setattr(shard_stream, "file_system", lambda url: files)
    with pytest.raises(UnreadableShard, match=reason):
        list(images_of("https://host/0.tar"))


def test_index_that_may_not_be_read_is_none(photos, folder):
    flags = {"unlabeled": True, "contraction": 0, "eval_dataset": photos, "steps_per_epoch": 2}
    with serving(folder, fault=lambda number, start: None if number else 403) as (address, asked):
        data = open_photos(config(f"{address}/{{00000..00002}}.tar", **flags), batch=6)
        assert data.streamed.sizes is None and asked == [("/sizes.json", 0)]
        checksum = data.checksum()
        # The run would see the images in another order with the index.
        assert checksum and checksum != open_photos(config(f"{address}/{{00000..00002}}.tar", **flags)).checksum()


def test_server_error_is_no_user_error(folder):
    with (
        serving(folder, fault=lambda number, start: 503) as (address, asked),
        pytest.raises(PassingFault, match="503.*tried 4 times"),
    ):
        list(images_of(f"{address}/00000.tar"))
    assert len(asked) == TRIES


@pytest.mark.parametrize("wrong", [503, ("cut", 0), ("cut", 30_000)])
def test_broken_read_goes_on_by_a_range_request(wrong, folder):
    """Each request begins at the last byte read, which shows that the file is not shorter."""
    content = (folder / "00000.tar").read_bytes()
    faults = iter([("cut", 20_000), wrong, wrong, None])
    with serving(folder, fault=lambda number, start: next(faults)) as (address, asked):
        assert read(f"{address}/00000.tar") == content
    starts = [start for _, start in asked]
    assert len(starts) == 4 and starts == sorted(starts) and 0 < starts[-1] < len(content)


def test_server_without_ranges_is_read_from_the_start(folder):
    content = (folder / "00000.tar").read_bytes()
    cut = iter([("cut", 30_000), ("cut", 60_000)])
    with serving(folder, ranges=False, fault=lambda number, start: next(cut, None)) as (address, asked):
        assert read(f"{address}/00000.tar") == content
    assert [start for _, start in asked] == [0, 0, 0]


def test_address_that_is_shorter_when_asked_again_is_refused(folder, tmp_path):
    (tmp_path / "00000.tar").write_bytes(bytes(20_000))
    with serving(tmp_path) as (address, _), ShardStream(f"{address}/00000.tar") as stream:
        stream.position = 50_000
        with pytest.raises(OSError, match="416"):
            stream.read(512)


def test_training_over_http_with_faults_is_unchanged(photos, folder):
    flags = {"unlabeled": True, "contraction": 0, "eval_dataset": photos}
    undisturbed = images_and_labels(open_photos(config(folder, **flags), batch=6), range(15))
    faults = [None, 503, ("cut", 30_000), None, 429, ("cut", 0)]
    with serving(folder, fault=lambda number, start: faults[number % len(faults)]) as (address, asked):
        data = open_photos(config(f"{address}/{{00000..00002}}.tar", **flags), batch=6)
        assert_same(images_and_labels(data, range(15)), undisturbed)
    assert asked[0] == ("/sizes.json", 0) and len(asked) > 6


def test_fewer_bytes_than_asked_for_are_a_fault(folder, monkeypatch):
    """A library that returns a short block would shift all bytes after it."""
    sources = []
    content = (folder / "00000.tar").read_bytes()
    monkeypatch.setattr(shard_stream, "_opened", lambda shard, position: sources.pop(0))

    class Short(io.BytesIO):
        size = len(content)

        def read(self, size: int) -> bytes:
            return super().read(size)[: size - (self.tell() == 2 * size)]

    sources[:] = [(Short(content), 0), (io.BytesIO(content), 0)]
    with ShardStream("s3://bucket/0.tar") as stream:
        assert [stream.read(1000) for _ in range(5)] == [content[at : at + 1000] for at in range(0, 5000, 1000)]
    assert not sources


def test_cloud_is_read_through_its_file_system(photos, folder, monkeypatch):
    """The bucket is in memory; its library is another, but the same code reads it."""
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe(f"/bucket/{path.name}", path.read_bytes())
    monkeypatch.setattr(shard_stream, "file_system", lambda url: Bucket(memory))
    flags = {"unlabeled": True, "contraction": 0, "eval_dataset": photos}
    expected = open_photos(config(folder, **flags))
    data = open_photos(config("s3://bucket/{00000..00002}.tar", **flags))
    assert (data.steps_per_epoch, data.size) == (expected.steps_per_epoch, 90)
    assert_same(images_and_labels(data, range(3)), images_and_labels(expected, range(3)))


class Bucket:
    """A file system under the scheme of a cloud."""

    def __init__(self, memory):
        self.memory = memory

    def open(self, url: str, mode: str, **options):
        assert options["block_size"] == shard_stream.BLOCK
        return self.memory.open(url.removeprefix("s3:/"), mode)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (type("ClientPayloadError", (Exception,), {})("cut"), True),
        (type("HttpError", (Exception,), {"code": 503})("busy"), True),
        (type("ClientResponseError", (Exception,), {"status": 429})("busy"), True),
        (type("HttpError", (Exception,), {"code": 403})("forbidden"), False),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), False),
        (type("DefaultCredentialsError", (Exception,), {})("not found"), False),
    ],
)
def test_errors_of_clouds_pass_or_last(error, passes, monkeypatch):
    def fail(shard: str, position: int):
        raise error

    monkeypatch.setattr(shard_stream, "_opened", fail)
    with pytest.raises(PassingFault if passes else UnreadableShard, match=str(error)):
        list(images_of("s3://bucket/0.tar"))


def test_closed_stream_ends_its_command(folder):
    stream = ShardStream(f"pipe:cat {folder}/00000.tar; sleep 60")
    assert len(stream.read(512)) == 512
    process = stream.source.process
    stream.close()
    assert process.returncode


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
