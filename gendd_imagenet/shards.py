"""WebDataset shards as an endless stream of images, the same for any number of processes and workers.

A global batch of B images is fed by S streams, each B / S neighbouring rows of it. A stream reads its own shards, so
that no two ever read the same one; a process, and a worker in it, keeps whole streams. What a stream delivers follows
from the seed and the epoch alone.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import webdataset

from gendd.errors import UserError
from gendd.randomness import BatchPlan, generator

MOST_STREAMS = 64
# Images of a stream among which the next one is drawn.
SHUFFLED = 100
IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")


class UnreadableShard(Exception):
    """A shard that cannot be read to its end, or holds no image; the message says which and why."""


def is_shards(dataset: str) -> bool:
    """Whether a data set's name means shards."""
    return dataset.split("::")[0].endswith(".tar") or dataset.startswith(("pipe:", "http://", "https://"))


def expand(dataset: str) -> list[str]:
    """The shards that a file, brace pattern, URL or pipe names."""
    return webdataset.shardlists.expand_urls(dataset)


def absent_shards(shards: Sequence[str]) -> list[str]:
    """Local shards that are not there."""
    return [shard for shard in shards if ":" not in shard and not Path(shard).is_file()]


def images_of(shard: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each image of a shard.

    Raises:
        UnreadableShard: it cannot be opened or read, or it is empty.
    """
    count = 0
    try:
        for sample in webdataset.tarfile_to_samples()(iter([{"url": shard}])):
            content = next((sample[key] for key in IMAGE_KEYS if key in sample), None)
            if content is not None:
                count += 1
                yield f"{shard}: {sample['__key__']}", content
    # webdataset passes on whatever the file system, curl or tarfile raise.
    except Exception as error:
        raise UnreadableShard(f"{shard} cannot be read ({error}); fetch or write it again") from error
    if not count:
        raise UnreadableShard(f"{shard} holds no image ({', '.join(IMAGE_KEYS)}); write it again, or leave it out")


def stream_count(shards: int, batch: int) -> int:
    """S: as many streams as there are shards, up to a limit, and a divisor of the batch."""
    return next(count for count in range(min(shards, MOST_STREAMS, batch), 0, -1) if batch % count == 0)


def own_streams(shards: int, plan: BatchPlan) -> list[int]:
    """Streams that feed this process's parts of a step, in order.

    Raises:
        UserError: too few shards for so many parts.
    """
    count, parts = stream_count(shards, plan.batch), plan.world * plan.accumulate
    if count % parts:
        raise UserError(
            f"--dataset: {shards} shards feed a batch of {plan.batch} by {count} streams, which {plan.world} processes "
            f"x --accumulate {plan.accumulate} cannot share; write more, smaller shards, or lower --accumulate"
        )
    each = count // parts
    return [
        (part * plan.world + plan.rank) * each + stream for part in range(plan.accumulate) for stream in range(each)
    ]


def stream_images(shards: Sequence[str], stream: int, count: int, seed: int, epoch: int) -> Iterator[tuple[str, bytes]]:
    """Images of one of `count` streams in an epoch: its shards in random order, over and over."""
    order = torch.randperm(len(shards), generator=generator("cpu", seed, "shards", epoch)).tolist()
    mine = [shards[index] for index in order[stream::count]]
    rng = random.Random(generator("cpu", seed, "shuffle", epoch, stream).initial_seed())
    while True:
        images = (image for shard in mine for image in images_of(shard))
        yield from webdataset.shuffle(SHUFFLED, initial=SHUFFLED, rng=rng)(images)
        rng.shuffle(mine)
