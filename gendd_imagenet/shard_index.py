"""The index of shards: sizes.json beside them, {"00000.tar": 5000}, the number of images of each.

OpenCLIP reads the same file.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from gendd.core.errors import InvalidValue
from gendd_imagenet.shard_stream import COMMAND, ShardStream, is_url
from gendd_imagenet.shards import images_of

NAME = "sizes.json"
REMEDY = "make it again: python -m gendd_imagenet.make_shards --index SHARDS"
# Shards to count at the same time: a server sends several faster than one.
COUNTED_AT_ONCE = 4


def read_sizes(shards: Sequence[str]) -> list[int] | None:
    """Return the number of images of each shard by the index beside it; None if any shard is in no index.

    Raises:
        InvalidValue: an index cannot be read.
        PassingFault: the disk or the network failed at every try.
    """
    indexes: dict[str, dict[str, int]] = {}
    sizes = []
    for shard in shards:
        if shard.startswith(COMMAND):
            return None
        folder, name = _divided(shard)
        if folder not in indexes:
            indexes[folder] = _read(folder + NAME)
        if name not in indexes[folder]:
            return None
        sizes.append(indexes[folder][name])
    return sizes


def files_beside(shards: Sequence[str]) -> list[str]:
    """List the index files of local shards."""
    return [index for index in {_divided(shard)[0] + NAME: None for shard in shards} if Path(index).is_file()]


def checksum(shards: Sequence[str], sizes: Sequence[int] | None) -> str | None:
    """Return a checksum of the names and indexed sizes of shards; None for commands, which do not have names."""
    if any(shard.startswith(COMMAND) for shard in shards):
        return None
    names = [_divided(shard)[1] for shard in shards]
    return hashlib.sha256(json.dumps([names, sizes]).encode()).hexdigest()


def count(shards: Sequence[str]) -> dict[str, int]:
    """Return the index of shards, after reading them all.

    Raises:
        InvalidValue: two shards of different folders have the same name.
        UnreadableShard: a shard cannot be read.
    """
    names = [_divided(shard)[1] for shard in shards]
    if len(set(names)) < len(names):
        raise InvalidValue(shards[0], "two of the shards have the same name; index each folder by itself")
    with ThreadPoolExecutor(COUNTED_AT_ONCE) as pool:
        counts = pool.map(lambda shard: sum(1 for _ in images_of(shard)), shards)
        return dict(zip(names, tqdm(counts, "shards", len(shards), disable=None, leave=False), strict=True))


def content(sizes: dict[str, int]) -> str:
    """Return the index as text."""
    return json.dumps(sizes, indent=0) + "\n"


def _divided(shard: str) -> tuple[str, str]:
    """Return the folder, with its slash, and the name of a shard."""
    path = shard.partition("?")[0] if is_url(shard) else shard
    name = path.rpartition("/")[2]
    return path.removesuffix(name), name


def _read(index: str) -> dict[str, int]:
    """Read an index; return an empty one if the file does not exist."""
    try:
        with ShardStream(index) as stream:
            sizes = json.loads(b"".join(iter(lambda: stream.read(2**20), b"")))
    # Clouds answer "forbidden" for a missing file if one may not list the folder.
    except (FileNotFoundError, PermissionError):
        return {}
    except (OSError, ValueError) as error:
        raise InvalidValue(index, f"cannot be read ({error}); {REMEDY}") from error
    if not (isinstance(sizes, dict) and all(type(size) is int and size >= 0 for size in sizes.values())):
        raise InvalidValue(index, f"does not hold the number of images of each shard; {REMEDY}")
    return sizes
