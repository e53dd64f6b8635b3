"""Streams of images from shards: the same for any number of processes and workers, and each image once per pass."""

import functools
import json
import random
import shutil
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from photos import assert_same, config, images_and_labels, open_photos, refusal

from gendd.core.errors import UserError
from gendd.core.seeding import BatchPlan
from gendd_imagenet import shard_index, streams
from gendd_imagenet.loading import StreamedImages
from gendd_imagenet.make_shards import main as make_shards
from gendd_imagenet.shards import images_of
from gendd_imagenet.streams import ShardSet, Stream, own_parts, stream_count

SIZES = (10, 10, 10, 10, 10, 10, 10, 10, 7)


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """Write 87 images in 9 shards with an index."""
    images = Path(shutil.copytree(photos / "train", tmp_path_factory.mktemp("images") / "train"))
    for image in sorted(images.glob("n01/*"))[:3]:
        image.unlink()
    output = tmp_path_factory.mktemp("shards")
    make_shards([str(images), str(output), "--images-per-shard", "10"])
    return output


@pytest.fixture
def shards(folder) -> ShardSet:
    return ShardSet([str(path) for path in sorted(folder.glob("*.tar"))], SIZES)


@pytest.fixture
def number(shards) -> dict[bytes, int]:
    """Return the number of each image by its content."""
    return {content: number for number, (_, content) in enumerate(all_images(shards))}


def all_images(shards: ShardSet) -> list[tuple[str, bytes]]:
    return [image for name in shards.names for image in images_of(name)]


def streamed(folder: Path, photos: Path, **settings):
    return config(folder, **{"unlabeled": True, "contraction": 0, "eval_dataset": photos, **settings})


class Described:
    """A view of (3, 1, 1) "pixels": the image's number, and the step and the row of its random numbers."""

    def __init__(self, number: dict[bytes, int]):
        self.number = number

    def __call__(self, content: bytes, seed: int, purpose: str, step: int, row: int) -> torch.Tensor:
        return torch.tensor([self.number[content], step, row]).view(3, 1, 1)


def rows(shards: ShardSet, view, plan: BatchPlan, steps: range, length: int = 0, workers: int = 1) -> torch.Tensor:
    """Return (image, step, row) of each row that a process reads."""
    length = length or sum(SIZES) // plan.batch
    chunks = [chunk.images for chunk in StreamedImages(shards, view, plan, steps, length, workers)]
    return torch.cat(chunks).view(-1, 3)


@pytest.mark.parametrize(
    ("batch", "world"), [(64, 1), (64, 8), (96, 3), (96, 24), (96, 48), (384, 96), (384, 128), (512, 512), (576, 144)]
)
@pytest.mark.parametrize("grad_accum_steps", [1, 2])
@pytest.mark.parametrize("workers", [1, 4])
def test_processes_share_a_batch_without_overlap(batch, world, grad_accum_steps, workers):
    if batch % (world * grad_accum_steps):
        grad_accum_steps = 1
    plans = [BatchPlan(0, batch, rank, world, grad_accum_steps) for rank in range(world)]
    parts = [part for plan in plans for part in own_parts(200, plan, workers)]
    assert sorted(row for part in parts for row in part.rows) == list(range(batch))
    each = batch // stream_count(200, batch)
    assert all({row // each for row in part.rows} == {part.stream} for part in parts)


def test_workers_of_many_processes_share_the_rows_of_a_stream():
    """A batch of 4096 has 512 streams; the 32 rows of a process may thus have 8 workers that read one stream each."""
    plan = BatchPlan(0, 4096, rank=100, world=128)
    assert stream_count(1000, 4096) == 512 and stream_count(9, 512) == 8
    assert len(own_parts(1000, plan, workers=4)) == 4
    parts = own_parts(9, plan, workers=8)
    assert [len(part.rows) for part in parts] == 8 * [4] and len({part.stream for part in parts}) == 1


@pytest.mark.parametrize(
    ("batch", "world"), [(24, 24), (48, 24), (48, 48), (96, 96), (128, 128), (256, 256), (30, 10), (12, 4)]
)
@pytest.mark.parametrize("indexed", [True, False])
def test_any_number_of_processes_reads_what_one_reads(batch, world, indexed, shards, number, monkeypatch):
    monkeypatch.setattr(streams, "images_of", functools.cache(lambda shard: list(images_of(shard))))
    shards = shards if indexed and batch <= sum(SIZES) else ShardSet(shards.names)
    steps, view = range(1, 3), Described(number)
    whole = rows(shards, view, BatchPlan(0, batch), steps, length=3)
    parts = [rows(shards, view, BatchPlan(0, batch, rank, world), steps, length=3) for rank in range(world)]
    joined = torch.cat(parts)
    order = torch.argsort(joined[:, 1] * batch + joined[:, 2])
    assert len(whole) == 2 * batch and torch.equal(joined[order], whole)


@pytest.mark.parametrize("batch", [8, 24, 40, 48])
def test_each_pass_reads_each_image_once(batch, shards, number):
    """The last images, which do not fill a batch, are left out."""
    length = sum(SIZES) // batch
    passes = [rows(shards, Described(number), BatchPlan(0, batch), range(p * length, (p + 1) * length)) for p in (0, 1)]
    images = [part[:, 0].tolist() for part in passes]
    assert all(len(set(read)) == len(read) == length * batch for read in images)
    assert images[0] != images[1] and sum(first == second for first, second in zip(*images, strict=True)) < 8


@pytest.mark.parametrize("count", [1, 2, 4, 7, 9])
def test_streams_share_all_images_equally(count, shards):
    reads = []
    for stream in range(count):
        chosen = shards.shares(stream, count, seed=0, number=3)
        reads += [[image for share in chosen for image in share.images()]]
    assert Counter(image for read in reads for image in read) == Counter(all_images(shards))
    assert {len(read) for read in reads} <= {87 // count, -(-87 // count)}


def test_stream_of_unknown_size_repeats_no_image_before_all(shards):
    """The window is larger than the stream, so that it must end with the round."""
    stream, seen = Stream(ShardSet(shards.names[:3]), 0, 1, seed=0, number=0), []
    for place in range(90):
        stream.go_to(place)
        seen.append(stream[place])
    rounds = [seen[first : first + 30] for first in (0, 30, 60)]
    assert all(Counter(read) == Counter(all_images(ShardSet(shards.names[:3]))) for read in rounds)
    assert rounds[0] != rounds[1]


def test_image_stays_within_its_window_of_the_pass():
    """Independent check of the shuffle: a number is never drawn before the window has reached it."""
    order = streams.WindowShuffle(5, lambda number: number % 20 == 0, random.Random(0))
    drawn = [next(order) for _ in range(60)]
    for first in (0, 20, 40):
        assert sorted(drawn[first : first + 20]) == list(range(first, first + 20))
    assert all(value < place + 5 for place, value in enumerate(drawn))
    assert drawn[:20] != sorted(drawn[:20])


@pytest.mark.parametrize("first", [1, 4, 5, 9, 17])
@pytest.mark.parametrize("indexed", [True, False])
def test_reading_from_any_step_equals_reading_from_the_start(first, indexed, shards, number):
    shards = shards if indexed else ShardSet(shards.names)
    view, plan = Described(number), BatchPlan(0, 16)
    whole = rows(shards, view, plan, range(20))
    assert torch.equal(rows(shards, view, plan, range(first, 20)), whole[whole[:, 1] >= first])


def test_resumed_stream_opens_no_shard_before_its_place(shards, monkeypatch):
    opened = []
    monkeypatch.setattr(streams, "SHUFFLED", 5)
    monkeypatch.setattr(streams, "images_of", lambda shard: opened.append(shard) or images_of(shard))
    resumed, whole = (Stream(shards, 0, 1, seed=0, number=0) for _ in range(2))
    resumed.go_to(70)
    first = resumed[70]
    assert len(opened) <= 3
    whole.go_to(0)
    assert whole[0] != first
    whole.go_to(70)
    assert whole[70] == first


def test_epochs_of_other_lengths_continue_the_pass(photos, folder, number):
    """The steps of all epochs together read what one long epoch reads."""
    data = [open_photos(streamed(folder, photos, steps_per_epoch=steps)) for steps in (3, 10)]
    short = [images for first in (0, 3, 6) for images in images_and_labels(data[0], range(first, first + 3))]
    assert_same(short, images_and_labels(data[1], range(9)))


def test_steps_per_epoch_follow_from_the_index(photos, folder):
    data = open_photos(streamed(folder, photos), batch=8)
    assert (data.steps_per_epoch, data.size) == (10, 87)
    assert data.checksum() != open_photos(streamed(f"{folder}/0000{{0..7}}.tar", photos)).checksum()
    assert "only 87 training images, fewer than --batch-size 96" in refusal(open_photos, streamed(folder, photos), 96)


def test_index_changes_the_checksum_of_a_run(photos, folder, tmp_path):
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    indexed = open_photos(streamed(plain, photos, steps_per_epoch=2)).checksum()
    (plain / "sizes.json").unlink()
    assert open_photos(streamed(plain, photos, steps_per_epoch=2)).checksum() != indexed


def test_checksum_of_addresses_follows_names_and_sizes():
    shards = ["https://example.org/a/0.tar?x=1", "https://example.org/a/1.tar"]
    found = {shard_index.checksum(shards, sizes) for sizes in (None, [1, 2], [2, 1])}
    assert len(found) == 3 and None not in found
    assert shard_index.checksum([shards[0].replace("/a/", "/b/"), shards[1]], [1, 2]) in found
    assert shard_index.checksum(["pipe:cat 0.tar"], None) is None


def test_make_shards_indexes_shards_of_others(photos, folder, tmp_path, capsys):
    expected = json.loads((folder / "sizes.json").read_text())
    assert expected == {f"0000{number}.tar": size for number, size in enumerate(SIZES)}
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    (plain / "sizes.json").unlink()
    assert "make_shards --index SHARDS" in refusal(open_photos, streamed(plain, photos))
    make_shards(["--index", str(plain)])
    assert f"87 images in 9 shards: {plain}/sizes.json" in capsys.readouterr().out
    assert (plain / "sizes.json").read_bytes() == (folder / "sizes.json").read_bytes()
    assert open_photos(streamed(plain, photos)).steps_per_epoch == 10


@pytest.mark.parametrize("wrong", [9, 11])
def test_index_that_is_wrong_is_refused(wrong, photos, folder, tmp_path):
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    sizes = json.loads((plain / "sizes.json").read_text()) | {"00003.tar": wrong}
    (plain / "sizes.json").write_text(json.dumps(sizes))
    for field, given in (("dataset", {}), ("images", {"images": str(plain)})):
        data = open_photos(streamed(plain, photos).changed(**given), batch=8)
        message = refusal(images_and_labels, data, range(10))
        reason = f"{plain}/00003.tar holds 10 images, but its index says {wrong}; make the index again"
        assert message == f"--{field} {plain}: {reason}"


def test_index_that_states_an_empty_shard_is_refused(photos, folder, tmp_path):
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    sizes = json.loads((plain / "sizes.json").read_text()) | {"00003.tar": 0}
    (plain / "sizes.json").write_text(json.dumps(sizes))
    message = refusal(open_photos, streamed(plain, photos))
    assert message.startswith(f"--dataset {plain}: its sizes.json states no images for {plain}/00003.tar; ")
    others = streamed(f"{plain}/0000{{0,1,2,4,5,6,7,8}}.tar", photos)
    assert open_photos(others).size == 77


@pytest.mark.parametrize("content", ["[]", '{"00000.tar": -1}', '{"00000.tar": "1"}', "{", "\x00"])
def test_unreadable_index_is_named(content, photos, folder, tmp_path):
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    (plain / "sizes.json").write_text(content)
    assert f"--dataset {plain}/sizes.json: " in refusal(open_photos, streamed(plain, photos))


def test_shards_that_an_index_lacks_have_no_sizes(photos, folder, tmp_path):
    plain = Path(shutil.copytree(folder, tmp_path / "plain"))
    shutil.copy(plain / "00000.tar", plain / "00009.tar")
    with pytest.raises(UserError, match="steps_per_epoch"):
        open_photos(streamed(plain, photos))
    assert open_photos(streamed(plain, photos, steps_per_epoch=2)).streamed.sizes is None


def test_borders_of_shares_are_where_arithmetic_puts_them(shards):
    """87 images in three shares: 29 images each, and each begins where the one before ended."""
    order = [share.shard for share in shards.shares(0, 1, seed=0, number=0)]
    ends = dict(zip(order, accumulate(SIZES[shards.names.index(name)] for name in order), strict=True))
    at = 0
    for stream in range(3):
        for share in shards.shares(stream, 3, seed=0, number=0):
            start = ends[share.shard] - SIZES[shards.names.index(share.shard)]
            assert start + share.chosen.start == at
            at = start + share.chosen.stop
        assert at == 29 * (stream + 1)
