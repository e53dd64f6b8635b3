"""Chunks of decoded images from worker processes, in an order that depends on neither processes nor workers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from gendd.images import BrokenImage
from gendd.randomness import BatchPlan, Shuffled
from gendd_imagenet.folders import Listing
from gendd_imagenet.images import EvalView, TrainView
from gendd_imagenet.shards import UnreadableShard, own_streams, stream_count, stream_images

# Images of a chunk; small, since chunks travel through shared memory, of which containers have little.
CHUNK = 32
EVAL_BATCH = 100
# What takes the place of a broken image may be broken too.
MOST_TRIES = 20


@dataclass(frozen=True)
class Chunk:
    """Neighbouring rows of a batch.

    Args:
        images: (n, 3, S, S) uint8; labels: (n,) int64, -1 where none is known.
        broken: a line for each image that another one took the place of.
        error: why reading cannot go on; a worker's exception would lose its words on the way.
    """

    images: Tensor
    labels: Tensor
    broken: tuple[str, ...] = ()
    error: str | None = None

    def pin_memory(self) -> "Chunk":
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


def stacked(views: Sequence[Tensor]) -> Tensor:
    """Images (n, 3, S, S), channels last as the views come: nothing is transposed."""
    return torch.stack([view.permute(1, 2, 0) for view in views]).permute(0, 3, 1, 2)


def failed(error: str) -> Chunk:
    return Chunk(torch.empty(0), torch.empty(0), error=error)


@dataclass(frozen=True)
class Request:
    """Images of a listing, by their numbers, and the key to the random numbers of each."""

    indices: Sequence[int]
    keys: Sequence[tuple[int | str, ...]]


class ListedImages(Dataset):
    """Answers a request with a chunk of augmented images."""

    def __init__(self, listing: Listing, view: TrainView, labeled: bool):
        self.listing, self.view, self.labeled = listing, view, labeled

    def __getitem__(self, request: Request) -> Chunk:
        images, labels, broken = [], [], []
        for index, key in zip(request.indices, request.keys, strict=True):
            for other in range(index, index + MOST_TRIES):
                other %= len(self.listing)
                path = self.listing.path(other)
                try:
                    images.append(self.view(path.read_bytes(), *key))
                    labels.append(int(self.listing.labels[other]) if self.labeled else -1)
                    break
                except (BrokenImage, OSError) as error:
                    broken.append(f"{path}: {error}")
            else:
                return failed(f"{path}: this image and {MOST_TRIES - 1} before it are broken ({broken[-1]})")
        return Chunk(stacked(images), torch.tensor(labels), tuple(broken))


class ListedForEvaluation(Dataset):
    """Answers a slice of a listing with a chunk of images as evaluation sees them."""

    def __init__(self, listing: Listing, view: EvalView):
        self.listing, self.view = listing, view

    def __getitem__(self, rows: slice) -> Chunk:
        images = []
        for index in range(rows.start, rows.stop):
            path = self.listing.path(index)
            try:
                images.append(self.view(path.read_bytes()))
            except (BrokenImage, OSError) as error:
                return failed(f"{path}: {error}; every image counts in an evaluation: replace it, or take it off")
        return Chunk(stacked(images), self.listing.labels[rows])


class StreamedImages(IterableDataset):
    """Chunks of the steps of one epoch, from the streams that feed this process, in the order of their rows."""

    def __init__(self, shards: Sequence[str], view: TrainView, plan: BatchPlan, epoch: int, steps: range):
        self.shards, self.view, self.plan, self.epoch, self.steps = shards, view, plan, epoch, steps
        self.count = stream_count(len(shards), plan.batch)
        self.streams = own_streams(len(shards), plan)

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        # The loader takes from its workers in turn, so that its chunks come in the order of `streams`.
        mine = self.streams[worker.id :: worker.num_workers] if worker else self.streams
        images = {stream: stream_images(self.shards, stream, self.count, self.plan.seed, self.epoch) for stream in mine}
        for step in self.steps:
            for stream in mine:
                try:
                    yield self.chunk(images[stream], step, stream)
                except UnreadableShard as error:
                    yield failed(f"--dataset: {error}")
                    return

    def chunk(self, images: Iterator[tuple[str, bytes]], step: int, stream: int) -> Chunk:
        rows = self.plan.batch // self.count
        views, broken = [], []
        while len(views) < rows:
            name, content = next(images)
            try:
                views.append(self.view(content, self.plan.seed, "augmentation", step, stream * rows + len(views)))
            except BrokenImage as error:
                broken.append(f"{name}: {error}")
                if len(broken) == MOST_TRIES:
                    return failed(f"{name}: this image and {MOST_TRIES - 1} near it are broken ({error})")
        return Chunk(stacked(views), torch.full((rows,), -1), tuple(broken))


def listed_chunks(
    listing: Listing, view: TrainView, requests: Iterable[Request], labeled: bool, workers: int, pin: bool
) -> Iterator[Chunk]:
    """A chunk for each request."""
    return iter(_loader(ListedImages(listing, view, labeled), workers, pin, sampler=requests))


def step_requests(size: int, plan: BatchPlan, steps: range, views: int) -> Iterator[Request]:
    """For this process's images of some steps: each pass over the listing in another random order.

    Args:
        views: cached views that the passes show in turn; 0: each time a new one.
    """
    order = Shuffled(size)
    for step in steps:
        for part in plan.parts(step):
            number, indices = order.part(part)
            if views:
                yield from view_requests(number % views, indices.tolist())
            else:
                rows = range(part.rows.start, part.rows.stop)
                yield from _requests(indices.tolist(), [(plan.seed, "augmentation", step, row) for row in rows])


def view_requests(view: int, indices: Sequence[int]) -> Iterator[Request]:
    """For images in one of their cached views, which are the same for every seed."""
    return _requests(indices, [("cached view", view, index) for index in indices])


def _requests(indices: Sequence[int], keys: Sequence[tuple[int | str, ...]]) -> Iterator[Request]:
    for first in range(0, len(indices), CHUNK):
        rows = slice(first, first + CHUNK)
        yield Request(indices[rows], keys[rows])


def streamed_chunks(
    shards: Sequence[str], view: TrainView, plan: BatchPlan, epoch: int, steps: range, workers: int, pin: bool
) -> Iterator[Chunk]:
    """This process's chunks of the steps of an epoch."""
    dataset = StreamedImages(shards, view, plan, epoch, steps)
    streams = len(dataset.streams)
    # Each worker keeps as many streams as every other.
    workers = next(count for count in range(min(workers, streams), -1, -1) if count == 0 or streams % count == 0)
    return iter(_loader(dataset, workers, pin, ahead=2 * streams // max(1, workers)))


def evaluation_chunks(listing: Listing, view: EvalView, slices: Sequence[slice], workers: int, pin: bool):
    """A chunk for each slice of the listing."""
    return iter(_loader(ListedForEvaluation(listing, view), workers, pin, sampler=slices))


def _loader(dataset, workers: int, pin: bool, ahead: int = 4, **arguments) -> DataLoader:
    """A loader of whole chunks, `ahead` of them prepared by each worker."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=ahead if workers else None,
        **arguments,
    )
