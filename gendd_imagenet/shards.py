"""WebDataset shards as an endless stream of images, the same for any number of processes and workers.

A global batch of B images is fed by S streams, each B / S neighboring rows of it. A stream has its own shards, so that
an image feeds one stream alone. What a stream delivers follows from the seed and the epoch alone. Where processes are
more than streams, several read the same stream, and each decodes its own rows.
"""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import tarfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import torch
import webdataset
from webdataset.gopen import gopen_schemes

from gendd.core.errors import InvalidValue, PassingFault
from gendd.core.seeding import BatchPlan, generator
from gendd.data.decode import ENDINGS, begins_as_image
from gendd.data.image_files import HIDDEN, NO_ENDING, aside, ending_of
from gendd_imagenet.shard_stream import ShardStream

MOST_STREAMS = 64
# Images of a stream among which the next one is drawn.
SHUFFLED = 100
# In upper case too; compressed ones are unpacked while they are read.
SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# By how compressed files begin. tarfile's own readers stop after the first of the parts that parallel compressors and
# cat make, and check no sums.
UNPACKERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


class UnreadableShard(Exception):
    """A shard that cannot be read to its end, or holds no image; the message says which and why."""


class _Member(tarfile.TarInfo):
    """A file of an archive that has to end with its end mark: tarfile takes any header it cannot read for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut short or damaged: {error}") from error


def is_shards(dataset: str) -> bool:
    """Whether a data set's name means shards."""
    if dataset.startswith(("pipe:", "http://", "https://")) or _is_shard(dataset.split("::")[0]):
        return True
    # imagenet names a data set; a folder of that name may hold the archives it came in.
    return dataset != "imagenet" and bool(_shards_in(dataset))


def expand(dataset: str) -> list[str]:
    """The shards that a folder, file, brace pattern, URL or pipe names.

    Raises:
        InvalidValue: webdataset does not read such URLs.
    """
    found = _shards_in(dataset) or webdataset.shardlists.expand_urls(dataset)
    for shard in found:
        scheme, is_url, _ = shard.partition("://")
        if is_url and ":" not in scheme and scheme not in {"file", *gopen_schemes}:
            raise InvalidValue(
                dataset,
                f"addresses of {scheme}:// are not supported; name a command that writes each shard to its "
                f'standard output, such as "pipe:aws s3 cp {dataset} -"',
            )
    return found


def _shards_in(folder: str) -> list[str]:
    """The shards of a folder with neither folders nor images beside them, 2 before 10; none of any other."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() or ending_of(entry.name) in ENDINGS:
                    return []
                if _is_shard(entry.name):
                    found.append(entry.path)
    # No folder; or one that cannot be listed, of which the listing of images tells.
    except OSError:
        return []
    return sorted(found, key=lambda path: (re.sub("[0-9]+", lambda number: number[0].zfill(20), path), path))


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SHARD_ENDINGS)


def absent_shards(shards: Sequence[str]) -> list[str]:
    """Local shards that are not there."""
    return [shard for shard in shards if ":" not in shard and not Path(shard).is_file()]


def images_of(shard: str, passed_over: Counter[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each image of a shard, told from other files as in folders (`gendd.data.image_files`).

    Args:
        passed_over: counts how many files of each kind were.

    Raises:
        UnreadableShard: it cannot be opened or read to its end, or it holds no image.
        PassingFault: the disk, the network or a command failed at each try.
    """
    count, passed_over = 0, Counter() if passed_over is None else passed_over
    try:
        # What the stream opens closes itself when dropped; closing a pipe early would be an error.
        with tarfile.open(fileobj=_unpacked(ShardStream(shard)), mode="r|", tarinfo=_Member) as archive:
            for name, content in _images(archive, passed_over):
                count += 1
                yield f"{shard}: {name}", content
            while rest := archive.fileobj.read(tarfile.RECORDSIZE):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("it goes on behind its end mark, as archives joined by cat do")
    except PassingFault:
        raise
    # The file system, curl and tarfile raise all kinds.
    except Exception as error:
        raise UnreadableShard(f"{shard} cannot be read ({error}); fetch or write it again") from error
    if not count:
        raise UnreadableShard(f"{shard} holds no image{aside(passed_over)}; write it again, or leave it out")


def _unpacked(stream: io.RawIOBase) -> BinaryIO:
    buffered = io.BufferedReader(stream, tarfile.RECORDSIZE)
    begin = buffered.peek()
    unpacker = next((opener for mark, opener in UNPACKERS.items() if begin.startswith(mark)), None)
    return unpacker(buffered) if unpacker else buffered


def _images(archive: tarfile.TarFile, passed_over: Counter[str]) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        # tarfile would keep them all.
        archive.members = []  # type: ignore[attr-defined]
        if member.isdir():
            continue
        kind = _kind(member)
        if kind in ENDINGS or kind == NO_ENDING:
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if kind in ENDINGS or begins_as_image(io.BytesIO(content)):
                yield member.name, content
                continue
        passed_over[kind] += 1


def _kind(member: tarfile.TarInfo) -> str:
    if any(part.startswith(".") and part != ".." for part in PurePosixPath(member.name).parts):
        return HIDDEN
    return ending_of(member.name) if member.isreg() else "links"


def stream_count(shards: int, batch: int) -> int:
    """S: as many streams as there are shards, up to a limit, and a divisor of the batch."""
    return next(count for count in range(min(shards, MOST_STREAMS, batch), 0, -1) if batch % count == 0)


@dataclass(frozen=True)
class Part:
    """Neighboring rows of a batch, in one micro-batch of one process, that one stream feeds."""

    stream: int
    rows: range


def own_parts(shards: int, plan: BatchPlan) -> list[Part]:
    """The parts of a step that this process takes, in order: its micro-batches, cut where a stream ends."""
    each, parts = plan.batch // stream_count(shards, plan.batch), []
    for micro_batch in plan.micro_batches(0):
        first, stop = micro_batch.rows.start, micro_batch.rows.stop
        while first < stop:
            stream = first // each
            parts.append(Part(stream, range(first, min((stream + 1) * each, stop))))
            first = parts[-1].rows.stop
    return parts


class Places:
    """The images of a stream by their place in it, which may only grow."""

    def __init__(self, images: Iterator[tuple[str, bytes]]):
        self.images, self.first = images, 0
        self.ahead: deque[tuple[str, bytes]] = deque()

    def go_to(self, place: int) -> None:
        """Forget the images before this place."""
        for _ in range(place - self.first):
            self.ahead.popleft() if self.ahead else next(self.images)
            self.first += 1

    def __getitem__(self, place: int) -> tuple[str, bytes]:
        while len(self.ahead) <= place - self.first:
            self.ahead.append(next(self.images))
        return self.ahead[place - self.first]


def stream_images(shards: Sequence[str], stream: int, count: int, seed: int, epoch: int) -> Iterator[tuple[str, bytes]]:
    """Images of one of `count` streams in an epoch: its shards in random order, over and over."""
    order = torch.randperm(len(shards), generator=generator("cpu", seed, "shards", epoch)).tolist()
    mine = [shards[index] for index in order[stream::count]]
    rng = random.Random(generator("cpu", seed, "shuffle", epoch, stream).initial_seed())
    while True:
        images = (image for shard in mine for image in images_of(shard))
        yield from webdataset.shuffle(SHUFFLED, initial=SHUFFLED, rng=rng)(images)
        rng.shuffle(mine)
