"""WebDataset shards as an endless stream of images, the same for any number of processes and workers.

S streams feed a global batch of B images; each fills B / S neighboring rows. Each shard belongs to one stream. The
order of a stream's images depends only on the seed and the epoch. If there are more processes than streams, several
processes read the same stream and each decodes its rows.
"""

import bz2
import contextlib
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
from gendd.core.tar import Member
from gendd.data import image_files
from gendd.data.decode import ENDINGS, MOST_BYTES, begins_as_image
from gendd.data.image_files import HIDDEN, NO_ENDING, aside, ending_of
from gendd_imagenet.shard_stream import ShardStream

MOST_STREAMS = 64
# Size of a stream's shuffle buffer.
SHUFFLED = 100
# Upper case is allowed. Compressed shards are unpacked on the fly.
SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# By the first bytes of a compressed file. tarfile's readers verify no checksums and stop after the first part of a
# file that a parallel compressor or cat made.
UNPACKERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


class UnreadableShard(Exception):
    """A shard that cannot be read to its end or holds no images; the message names it and the reason."""


def is_shards(dataset: str) -> bool:
    """Return whether a data set's name means shards."""
    if dataset.startswith(("pipe:", "http://", "https://")) or _is_shard(dataset.split("::")[0]):
        return True
    # imagenet names a data set; a folder of that name may hold its original archives.
    return dataset != "imagenet" and bool(_shards_in(dataset))


def runs_command(dataset: str) -> bool:
    """Return whether reading a data set runs a command of its name, also within a pattern."""
    return is_shards(dataset) and any(shard.startswith("pipe:") for shard in expand(dataset))


def expand(dataset: str) -> list[str]:
    """List the shards that a folder, file, brace pattern, URL or pipe names.

    Raises:
        InvalidValue: webdataset does not support the URL's scheme.
    """
    found = _shards_in(dataset) or webdataset.shardlists.expand_urls(dataset)
    for shard in found:
        scheme, is_url, _ = shard.partition("://")
        if is_url and ":" not in scheme and scheme not in {"file", *gopen_schemes}:
            raise InvalidValue(
                dataset,
                f"URLs of {scheme}:// are not supported; name a command that writes each shard to its "
                f'standard output, such as "pipe:aws s3 cp {dataset} -"',
            )
    return found


def _shards_in(folder: str) -> list[str]:
    """List the shards of a folder, 2 before 10; return an empty list if it also holds folders or images."""
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
    # Not a folder, or an unreadable one: listing its images reports the error.
    except OSError:
        return []
    return sorted(found, key=lambda path: (re.sub("[0-9]+", lambda number: number[0].zfill(20), path), path))


def _is_shard(name: str) -> bool:
    return name.lower().endswith(SHARD_ENDINGS)


def absent_shards(shards: Sequence[str]) -> list[str]:
    """List the local shards that do not exist."""
    return [shard for shard in shards if ":" not in shard and not Path(shard).is_file()]


def checksum(shards: Sequence[str]) -> str | None:
    """Return a checksum of the names and sizes of shards; None for URLs and commands, whose sizes are unknown."""
    if any(":" in shard for shard in shards):
        return None
    folder = Path(os.path.commonpath([os.path.dirname(os.path.abspath(shard)) for shard in shards]))
    return image_files.checksum(folder, (os.path.relpath(shard, folder) for shard in shards))


def images_of(shard: str, passed_over: Counter[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each image of a shard; `gendd.data.image_files` defines what counts as an image.

    Args:
        passed_over: counter of skipped files by kind, updated in place.

    Raises:
        UnreadableShard: the shard cannot be opened or read to its end, or holds no images.
        PassingFault: the disk, the network or a command failed at every try.
    """
    count, passed_over = 0, Counter() if passed_over is None else passed_over
    with _archive(shard) as archive:
        for name, content in _images(archive, passed_over):
            count += 1
            yield f"{shard}: {name}", content
    if not count:
        raise UnreadableShard(f"{shard} holds no image{aside(passed_over)}; write it again, or leave it out")


def members_of(shard: str) -> Iterator[tuple[str, bytes, bool]]:
    """Yield the name and content of each file of a shard, and whether it is an image.

    Raises:
        UnreadableShard: the shard cannot be opened or read to its end.
        PassingFault: the disk, the network or a command failed at every try.
    """
    with _archive(shard) as archive:
        for member in _members(archive):
            if member.isreg():
                content = _content(archive, member)
                yield member.name, content, _is_image(_kind(member), content)


@contextlib.contextmanager
def _archive(shard: str) -> Iterator[tarfile.TarFile]:
    """Open a shard, and read it to its end after the block."""
    try:
        # The stream's source closes when it is garbage-collected; closing a pipe early would raise an error.
        with tarfile.open(fileobj=_unpacked(ShardStream(shard)), mode="r|", tarinfo=Member) as archive:
            yield archive
            while rest := archive.fileobj.read(tarfile.RECORDSIZE):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("it continues after its end mark, like archives joined by cat")
    except PassingFault:
        raise
    # The file system, curl and tarfile raise many kinds of exceptions.
    except Exception as error:
        raise UnreadableShard(f"{shard} cannot be read ({error}); fetch or write it again") from error


def _unpacked(stream: io.RawIOBase) -> BinaryIO:
    buffered = io.BufferedReader(stream, tarfile.RECORDSIZE)
    begin = buffered.peek()
    unpacker = next((opener for mark, opener in UNPACKERS.items() if begin.startswith(mark)), None)
    return unpacker(buffered) if unpacker else buffered


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in archive:
        # tarfile would keep all members in memory.
        archive.members = []  # type: ignore[attr-defined]
        yield member


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MOST_BYTES:
        raise tarfile.ReadError(f"{member.name} has {member.size} bytes, more than {MOST_BYTES}")
    file = archive.extractfile(member)
    return file.read() if file else b""


def _images(archive: tarfile.TarFile, passed_over: Counter[str]) -> Iterator[tuple[str, bytes]]:
    for member in _members(archive):
        if member.isdir():
            continue
        kind = _kind(member)
        if kind in ENDINGS or kind == NO_ENDING:
            content = _content(archive, member)
            if _is_image(kind, content):
                yield member.name, content
                continue
        passed_over[kind] += 1


def _is_image(kind: str, content: bytes) -> bool:
    return kind in ENDINGS or (kind == NO_ENDING and begins_as_image(io.BytesIO(content)))


def _kind(member: tarfile.TarInfo) -> str:
    if any(part.startswith(".") and part != ".." for part in PurePosixPath(member.name).parts):
        return HIDDEN
    return ending_of(member.name) if member.isreg() else "links"


def stream_count(shards: int, batch: int) -> int:
    """Return S, the largest divisor of the batch up to the number of shards and `MOST_STREAMS`."""
    return next(count for count in range(min(shards, MOST_STREAMS, batch), 0, -1) if batch % count == 0)


@dataclass(frozen=True)
class Part:
    """Neighboring rows of a batch from one stream, within one micro-batch of one process."""

    stream: int
    rows: range


def own_parts(shards: int, plan: BatchPlan) -> list[Part]:
    """List this process's parts of a step in order: its micro-batches, split where a stream's rows end."""
    each, parts = plan.batch // stream_count(shards, plan.batch), []
    for micro_batch in plan.micro_batches(0):
        first, stop = micro_batch.rows.start, micro_batch.rows.stop
        while first < stop:
            stream = first // each
            parts.append(Part(stream, range(first, min((stream + 1) * each, stop))))
            first = parts[-1].rows.stop
    return parts


class Places:
    """Images of a stream by position. Positions must not decrease."""

    def __init__(self, images: Iterator[tuple[str, bytes]]):
        self.images, self.first = images, 0
        self.ahead: deque[tuple[str, bytes]] = deque()

    def go_to(self, place: int) -> None:
        """Drop the images before this position."""
        for _ in range(place - self.first):
            self.ahead.popleft() if self.ahead else next(self.images)
            self.first += 1

    def __getitem__(self, place: int) -> tuple[str, bytes]:
        while len(self.ahead) <= place - self.first:
            self.ahead.append(next(self.images))
        return self.ahead[place - self.first]


def stream_images(shards: Sequence[str], stream: int, count: int, seed: int, epoch: int) -> Iterator[tuple[str, bytes]]:
    """Yield the images of one of `count` streams in an epoch, endlessly, with the shards in random order."""
    order = torch.randperm(len(shards), generator=generator("cpu", seed, "shards", epoch)).tolist()
    mine = [shards[index] for index in order[stream::count]]
    rng = random.Random(generator("cpu", seed, "shuffle", epoch, stream).initial_seed())
    while True:
        images = (image for shard in mine for image in images_of(shard))
        yield from webdataset.shuffle(SHUFFLED, initial=SHUFFLED, rng=rng)(images)
        rng.shuffle(mine)
