"""WebDataset shards: which names mean them, and the images that they hold."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from braceexpand import braceexpand

from gendd.core.errors import InvalidValue, PassingFault, UserError
from gendd.core.tar import Member
from gendd.data import image_files
from gendd.data.decode import ENDINGS, MOST_BYTES, begins_as_image
from gendd.data.image_files import HIDDEN, NO_ENDING, aside, ending_of
from gendd_imagenet.shard_stream import BLOCK, COMMAND, SCHEMES, ShardStream, check_url, is_url

# Upper case is allowed. Compressed shards are unpacked on the fly.
SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# By the first bytes of a compressed file. tarfile's readers verify no checksums and stop after the first part of a
# file that a parallel compressor or cat made.
UNPACKERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


class UnreadableShard(Exception):
    """A shard that cannot be read to its end or holds no images; the message names it and the reason."""


def is_shards(dataset: str) -> bool:
    """Return whether a data set's name means shards."""
    if dataset.startswith((COMMAND, *(f"{scheme}://" for scheme in SCHEMES))) or _is_shard(dataset.split("::")[0]):
        return True
    # imagenet names a data set; a folder of that name may hold its original archives.
    return dataset != "imagenet" and bool(_shards_in(dataset))


def runs_command(dataset: str) -> bool:
    """Return whether reading a data set runs a command of its name, also within a pattern."""
    return is_shards(dataset) and any(shard.startswith(COMMAND) for shard in expand(dataset))


def expand(dataset: str) -> list[str]:
    """List the shards that a folder, file, brace pattern, URL or pipe names; `::` joins several patterns.

    Raises:
        InvalidValue: the braces of a pattern do not match, or a URL cannot be read or contains a password.
    """
    try:
        found = _shards_in(dataset) or [shard for part in dataset.split("::") for shard in braceexpand(part)]
    except ValueError as error:
        raise InvalidValue(dataset, "its braces do not match; close each, as in {00000..00099}.tar") from error
    for url in filter(is_url, found):
        check_url(url)
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


def is_local(shard: str) -> bool:
    """Return whether a shard is a file, not a URL or a command."""
    return not (shard.startswith(COMMAND) or is_url(shard))


def absent_shards(shards: Sequence[str]) -> list[str]:
    """List the local shards that do not exist."""
    return [shard for shard in shards if is_local(shard) and not Path(shard).is_file()]


def checksum(shards: Sequence[str]) -> str | None:
    """Return a checksum of the names and sizes of shards; None for URLs and commands, whose sizes are unknown."""
    if not all(map(is_local, shards)):
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
        with (
            ShardStream(shard) as stream,
            tarfile.open(fileobj=_unpacked(stream), mode="r|", tarinfo=Member) as archive,
        ):
            yield archive
            while rest := archive.fileobj.read(tarfile.RECORDSIZE):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("it continues after its end mark, like archives joined by cat")
    except (PassingFault, UserError):
        raise
    # The file system, fsspec and tarfile raise many kinds of exceptions.
    except Exception as error:
        raise UnreadableShard(f"{shard} cannot be read ({error}); fetch or write it again") from error


def _unpacked(stream: io.RawIOBase) -> BinaryIO:
    buffered = io.BufferedReader(stream, BLOCK)
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
