"""Shards as streams of images, in the same order for any number of processes and workers.

S streams feed a global batch of B images; each fills B / S neighboring rows. S follows from the batch and the number
of shards alone. Processes and workers divide the rows: if there are more of them than streams, several read the same
stream, and each decodes its rows.

A pass deals N images, in a new random order of the shards, to the streams in equal shares. A shard on the border of
two shares is read by both streams. So each image is used once per pass of N // B steps, except the last ones that do
not fill a batch. Without an index of the shards' sizes N is unknown: then each epoch is a new pass that deals whole
shards, and a stream that comes to its end starts again.
"""

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from gendd.core.seeding import BatchPlan, generator
from gendd_imagenet.shards import UnreadableShard, images_of

# From a shard to the name and content of each of its images.
Read = Callable[[str], Iterator[tuple[str, Any]]]
# Fewest rows of a batch that a stream feeds. More streams mix better, but each keeps images and a file open.
FEWEST_ROWS = 8
# Limits of the images that a stream keeps to shuffle, and of those that all streams keep together.
SHUFFLED, SHUFFLED_IN_ALL = 100, 6400


def stream_count(shards: int, batch: int) -> int:
    """Return S, the largest divisor of the batch up to the number of shards and B / `FEWEST_ROWS`."""
    return next(count for count in range(min(shards, max(1, batch // FEWEST_ROWS)), 0, -1) if batch % count == 0)


@dataclass(frozen=True)
class Part:
    """Neighboring rows of a batch from one stream, within one micro-batch of one process."""

    stream: int
    rows: range


def own_parts(shards: int, plan: BatchPlan, workers: int = 1) -> list[Part]:
    """List this process's parts of a step in order, split where a stream's rows end, and evenly for the workers."""
    each, parts = plan.batch // stream_count(shards, plan.batch), []
    for micro_batch in plan.micro_batches(0):
        first, stop = micro_batch.rows.start, micro_batch.rows.stop
        while first < stop:
            stream = first // each
            parts.append(Part(stream, range(first, min((stream + 1) * each, stop))))
            first = parts[-1].rows.stop
    pieces = max(1, min(workers // len(parts), *(len(part.rows) for part in parts)))
    return [Part(part.stream, rows) for part in parts for rows in _divided(part.rows, pieces)]


def _divided(rows: range, pieces: int) -> list[range]:
    borders = [piece * len(rows) // pieces for piece in range(pieces + 1)]
    return [rows[first:stop] for first, stop in zip(borders, borders[1:], strict=False)]


@dataclass(frozen=True)
class Share:
    """Images of a shard, in the order of the file.

    Args:
        size: number of images in the shard, None if unknown.
        chosen: which of them; None for all.
        read: function that yields the name and content of each image of a shard.
    """

    shard: str
    size: int | None = None
    chosen: range | None = None
    read: Read = images_of

    def images(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and content of each image.

        Raises:
            UnreadableShard: the shard cannot be read, or has another number of images.
        """
        number = -1
        for number, image in enumerate(self.read(self.shard)):
            if self.chosen is None or number in self.chosen:
                yield image
            # The rest belongs to another stream.
            if self.chosen is not None and number + 1 == self.chosen.stop < (self.size or 0):
                return
        if self.size is not None and number + 1 != self.size:
            raise UnreadableShard(
                f"{self.shard} holds {number + 1} images, but its index says {self.size}; make the index again"
            )


@dataclass(frozen=True)
class ShardSet:
    """Shards, the number of images of each, None if unknown, and the function that reads a shard's images."""

    names: Sequence[str]
    sizes: Sequence[int] | None = None
    read: Read = images_of

    def shares(self, stream: int, count: int, seed: int, number: int) -> list[Share]:
        """List what one of `count` streams reads in a pass."""
        order = torch.randperm(len(self.names), generator=generator("cpu", seed, "shards", number)).tolist()
        if self.sizes is None:
            return [Share(self.names[index], read=self.read) for index in order[stream::count]]
        ends = list(accumulate(self.sizes[index] for index in order))
        first, stop = (border * ends[-1] // count for border in (stream, stream + 1))
        shares = []
        for place in range(bisect_right(ends, first), len(order)):
            size = self.sizes[order[place]]
            start = ends[place] - size
            if start >= stop:
                break
            chosen = range(max(first - start, 0), min(stop - start, size))
            if chosen:
                shares.append(Share(self.names[order[place]], size, chosen, self.read))
        return shares


class WindowShuffle:
    """The numbers from 0 in random order: each is one of the `window` smallest numbers left in its round.

    Args:
        begins_round: whether a number is the first of a round. All numbers of a round precede those of the next.
    """

    def __init__(self, window: int, begins_round: Callable[[int], bool], rng: random.Random):
        self.window, self.begins_round, self.rng = window, begins_round, rng
        self.held: list[int] = []
        self.next = 0

    def __next__(self) -> int:
        while len(self.held) < self.window and not (self.held and self.begins_round(self.next)):
            self.held.append(self.next)
            self.next += 1
        drawn = self.rng.randrange(len(self.held))
        self.held[drawn], self.held[-1] = self.held[-1], self.held[drawn]
        return self.held.pop()


class Stream:
    """Images of a stream by place, in one pass. Places must not decrease, but one may look ahead.

    It is endless: after the last image of the pass it begins again.
    """

    def __init__(self, shards: ShardSet, stream: int, count: int, seed: int, number: int):
        self.shares = shards.shares(stream, count, seed, number)
        # Number of images in a round; 0 if unknown, until all were read.
        self.length = sum(len(share.chosen or ()) for share in self.shares)
        rng = random.Random(generator("cpu", seed, "shuffle", number, stream).initial_seed())
        self.order = WindowShuffle(max(1, min(SHUFFLED, SHUFFLED_IN_ALL // count)), self._begins_round, rng)
        self.place = 0
        # Numbers of the images from `place` on, and the images that were read and are not yet dropped.
        self.ahead: deque[int] = deque()
        self.read: dict[int, tuple[str, Any]] = {}
        self.images: Iterator[tuple[str, Any]] | None = None
        self.reached = 0
        self.begun: set[int] = set()

    def go_to(self, place: int) -> None:
        """Drop the images before this place."""
        for _ in range(place - self.place):
            self.read.pop(self.ahead.popleft() if self.ahead else next(self.order), None)
        self.place = place

    def __getitem__(self, place: int) -> tuple[str, Any]:
        while len(self.ahead) <= place - self.place:
            self.ahead.append(next(self.order))
        number = self.ahead[place - self.place]
        self._read_to(number)
        return self.read[number]

    def _begins_round(self, number: int) -> bool:
        if self.length:
            return number % self.length == 0
        self._read_to(number)
        return number in self.begun

    def _read_to(self, number: int) -> None:
        held = self.order.held
        if self.images is None:
            self.reached = min(*self.ahead, *held, self.order.next)
            self.images = self._images(self.reached)
        while self.reached <= number:
            image = next(self.images)
            if self.reached in self.ahead or self.reached in held or self.reached >= self.order.next:
                self.read[self.reached] = image
            self.reached += 1

    def _images(self, first: int) -> Iterator[tuple[str, Any]]:
        """Yield the images from a number on. Shards of a known size before it are not read."""
        number = 0
        while True:
            self.begun.add(number)
            for share in self.shares:
                if share.chosen is not None and number + len(share.chosen) <= first:
                    number += len(share.chosen)
                    continue
                for image in share.images():
                    if number >= first:
                        yield image
                    number += 1
