"""Load chunks of decoded images with worker processes, in the same order for any number of processes and workers."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from gendd.core.distributed import peer_timeout
from gendd.core.errors import InvalidValue, PassingFault, UserError
from gendd.core.seeding import BatchPlan, Shuffled
from gendd.core.stopping import outlive_requests
from gendd.data.decode import BrokenImage
from gendd_imagenet.hub_images import AnyListing
from gendd_imagenet.images import EvalView, TrainView
from gendd_imagenet.shards import UnreadableShard
from gendd_imagenet.streams import Part, ShardSet, Stream, own_parts, stream_count

# Images per chunk: few, since chunks pass through shared memory, which containers limit.
CHUNK = 32
EVAL_BATCH = 100
# The image that replaces a broken one may be broken too.
MOST_TRIES = 20
# Share of PEER_TIMEOUT that a process waits for its workers. It must report them before the other processes time out.
PATIENCE = 0.9


@dataclass(frozen=True)
class Chunk:
    """Neighboring rows of a batch.

    Args:
        images: (n, 3, S, S) uint8.
        labels: (n,) int64, -1 for an unknown label.
        broken: one line per broken image that another one replaced.
        error: why reading stopped. An exception raised in a worker would lose its message or never arrive.
        indices: (n,) numbers of the images in the listing; None for shards.
        view: number of the cached view.
        outputs: (n, D) outputs of the teacher, float32, if they are stored with the images.
    """

    images: Tensor
    labels: Tensor
    broken: tuple[str, ...] = ()
    error: UserError | PassingFault | None = None
    indices: Tensor | None = None
    view: int = 0
    outputs: Tensor | None = None

    def pin_memory(self) -> "Chunk":
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())

    def share_memory(self) -> "Chunk":
        return replace(self, images=self.images.share_memory_(), labels=self.labels.share_memory_())


def stacked(views: Sequence[Tensor]) -> Tensor:
    """Stack views to images (n, 3, S, S), channels last as in the views, without a transpose."""
    return torch.stack([view.permute(1, 2, 0) for view in views]).permute(0, 3, 1, 2)


def made(make: Callable[..., Chunk], *arguments) -> Chunk:
    """Return the chunk, or an empty one that holds the error."""
    worker = get_worker_info()
    try:
        chunk = make(*arguments)
        # Torch would share the memory while it sends the chunk; an error there is lost and the training hangs.
        return chunk.share_memory() if worker else chunk
    except (UserError, PassingFault) as error:
        reason = error
    except Exception as error:
        if not worker:
            raise
        reason = worker_fault(f"failed ({type(error).__name__}: {_last_line(error)})", worker.num_workers)
    return Chunk(torch.empty(0), torch.empty(0), error=reason)


def worker_fault(what: str, workers: int) -> PassingFault:
    return PassingFault(
        f"a data worker {what}; if memory or shared memory (/dev/shm, a container's `shm_size`) ran out, use fewer "
        f"`workers` than {workers}; `workers` 0 does not use shared memory and shows the error; run the same command "
        "again to resume from the last checkpoint"
    )


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Request:
    """Images of a listing by number, the key of each image's random numbers, and the cached view."""

    indices: Sequence[int]
    keys: Sequence[tuple[int | str, ...]]
    view: int = 0


class ListedImages(Dataset):
    """Map-style data set from a request to a chunk of augmented images."""

    def __init__(self, listing: AnyListing, view: TrainView, labeled: bool):
        self.listing, self.view, self.labeled = listing, view, labeled

    def __getitem__(self, request: Request) -> Chunk:
        return made(self.chunk, request)

    def chunk(self, request: Request) -> Chunk:
        images, labels, broken = [], [], []
        for index, key in zip(request.indices, request.keys, strict=True):
            for other in range(index, index + MOST_TRIES):
                other %= len(self.listing)
                try:
                    images.append(self.view(self.listing.content(other), *key))
                    labels.append(int(self.listing.known_labels[other]) if self.labeled else -1)
                    break
                except (BrokenImage, OSError) as error:
                    broken.append(f"{self.listing.name(other)}: {error}")
            else:
                raise UserError(
                    f"{self.listing.name(other)}: this image and {MOST_TRIES - 1} before it are broken ({broken[-1]})"
                )
        indices = torch.tensor(request.indices)
        return Chunk(stacked(images), torch.tensor(labels), tuple(broken), indices=indices, view=request.view)


class ListedForEvaluation(Dataset):
    """Map-style data set from a slice of a listing to a chunk of evaluation images."""

    def __init__(self, listing: AnyListing, view: EvalView):
        self.listing, self.view = listing, view

    def __getitem__(self, rows: slice) -> Chunk:
        return made(self.chunk, rows)

    def chunk(self, rows: slice) -> Chunk:
        images = []
        for index in range(rows.start, rows.stop):
            try:
                images.append(self.view(self.listing.content(index)))
            except (BrokenImage, OSError) as error:
                raise UserError(
                    f"{self.listing.name(index)}: {error}; an evaluation needs every image: replace or remove this one"
                ) from error
        return Chunk(stacked(images), self.listing.known_labels[rows])


class StreamedImages(IterableDataset):
    """Chunks from shards: this process's parts of each step, in row order.

    Args:
        length: number of steps in a pass over the shards.
        workers: number of workers to divide the rows for.
    """

    def __init__(self, shards: ShardSet, view: TrainView, plan: BatchPlan, steps: range, length: int, workers: int):
        self.shards, self.view, self.plan, self.steps, self.length = shards, view, plan, steps, length
        self.count = stream_count(len(shards.names), plan.batch)
        self.parts = own_parts(len(shards.names), plan, workers)

    def __iter__(self) -> Iterator[Chunk]:
        worker = get_worker_info()
        # The loader takes chunks from its workers in turn, so they arrive in the order of `parts`.
        mine = self.parts[worker.id :: worker.num_workers] if worker else self.parts
        passed, streams = -1, {}
        for step in self.steps:
            number, position = divmod(step, self.length)
            if number != passed:
                passed = number
                streams = {
                    part.stream: Stream(self.shards, part.stream, self.count, self.plan.seed, number) for part in mine
                }
            for part in mine:
                yield made(self.chunk, streams[part.stream], step, position, part)

    def chunk(self, images: Stream, step: int, position: int, part: Part) -> Chunk:
        each = self.plan.batch // self.count
        views: list[Any] = []
        broken: list[str] = []
        for row in part.rows:
            place = position * each + row % each
            images.go_to(place)
            # The next image replaces a broken one and is used again in its row, so rows do not depend on each other.
            for other in range(place, place + MOST_TRIES):
                try:
                    name, content = images[other]
                except UnreadableShard as error:
                    raise InvalidValue("", str(error)) from error
                try:
                    views.append(self.draw(name, content, step, row))
                    break
                except BrokenImage as error:
                    broken.append(f"{name}: {error}")
            else:
                raise UserError(f"{name}: this image and {MOST_TRIES - 1} before it are broken ({broken[-1]})")
        return self.joined(views, tuple(broken))

    def draw(self, name: str, content: Any, step: int, row: int) -> Any:
        """Return the view of an image for a row of a step."""
        return self.view(content, self.plan.seed, "augmentation", step, row)

    def joined(self, views: list[Any], broken: tuple[str, ...]) -> Chunk:
        return Chunk(stacked(views), torch.full((len(views),), -1), broken)


def listed_chunks(
    listing: AnyListing, view: TrainView, requests: Iterable[Request], labeled: bool, workers: int, pin: bool
) -> Iterator[Chunk]:
    """Yield a chunk per request."""
    return chunks(ListedImages(listing, view, labeled), workers, pin, sampler=requests)


def step_requests(size: int, plan: BatchPlan, steps: range, views: int) -> Iterator[Request]:
    """Yield requests for this process's images of these steps. Each epoch has a new random order.

    Args:
        views: number of cached views, which the epochs use in turn. 0: a new view each time.
    """
    order = Shuffled(size)
    for step in steps:
        for random in plan.micro_batches(step):
            number, indices = order.locate(random)
            if views:
                yield from view_requests(number % views, indices.tolist())
            else:
                rows = range(random.rows.start, random.rows.stop)
                yield from _requests(indices.tolist(), [(plan.seed, "augmentation", step, row) for row in rows])


def view_requests(view: int, indices: Sequence[int]) -> Iterator[Request]:
    """Yield requests for images in one cached view, the same for every seed."""
    return _requests(indices, [("cached view", view, index) for index in indices], view)


def _requests(indices: Sequence[int], keys: Sequence[tuple[int | str, ...]], view: int = 0) -> Iterator[Request]:
    for first in range(0, len(indices), CHUNK):
        rows = slice(first, first + CHUNK)
        yield Request(indices[rows], keys[rows], view)


def streamed_chunks(
    shards: ShardSet,
    view: TrainView,
    plan: BatchPlan,
    steps: range,
    length: int,
    workers: int,
    pin: bool,
    kind: Callable[..., StreamedImages] = StreamedImages,
) -> Iterator[Chunk]:
    """Yield this process's chunks from shards for these steps; a pass over the shards has `length` steps."""
    dataset = kind(shards, view, plan, steps, length, workers)
    parts = len(dataset.parts)
    # All workers must have the same number of parts.
    workers = next(count for count in range(min(workers, parts), -1, -1) if count == 0 or parts % count == 0)
    return chunks(dataset, workers, pin, ahead=2 * parts // max(1, workers))


def evaluation_chunks(
    listing: AnyListing, view: EvalView, slices: Sequence[slice], workers: int, pin: bool
) -> Iterator[Chunk]:
    """Yield a chunk of evaluation images per slice."""
    return chunks(ListedForEvaluation(listing, view), workers, pin, sampler=slices)


def chunks(dataset, workers: int, pin: bool, ahead: int = 4, **arguments) -> Iterator[Chunk]:
    """Yield a loader's chunks; each worker prepares `ahead` of them in advance.

    Raises:
        UserError: the data cannot be read.
        PassingFault: the disk or the network failed, or a worker died or hangs.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=outlive_requests if workers else None,
        **arguments,
    )
    for chunk in _watched(loader) if workers else loader:
        if chunk.error:
            raise chunk.error
        yield chunk


def _watched(loader: DataLoader) -> Iterator[Chunk]:
    """Yield the loader's chunks; raise an error if a worker dies or hangs while the next chunk is awaited.

    Only the main thread can receive signals: another one does not notice workers that hang.
    """
    patience, workers = PATIENCE * peer_timeout(), []
    able = threading.current_thread() is threading.main_thread()
    try:
        with _deaths_left_alone() if able else contextlib.nullcontext():
            others = active_children()
            chunks = iter(loader)
            workers = [process for process in active_children() if process not in others]
        while True:
            with _alarm(patience) if able else contextlib.nullcontext():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
    except Exception as error:
        ending = _ending(workers)
        for worker in workers:
            worker.kill()
        if isinstance(error, TimeoutError) and not ending:
            ending = f"sent nothing for {patience:.0f} s, {PATIENCE:.0%} of PEER_TIMEOUT"
        raise worker_fault(ending or f"cannot be reached ({_last_line(error)})", loader.num_workers) from error


@contextlib.contextmanager
def _deaths_left_alone() -> Iterator[None]:
    """Undo the signal handler that torch's loader installs for a worker's death.

    The handler would interrupt the training anywhere, even inside a checkpoint. Without it the loader checks its
    workers every few seconds while it waits.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the block after `seconds`."""

    def ring(*_) -> None:
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def _ending(workers: Sequence[BaseProcess]) -> str | None:
    """Describe how the first dead worker ended, such as "was ended by SIGKILL"."""
    for worker in workers:
        if worker.exitcode:
            by = signal.Signals(-worker.exitcode).name if worker.exitcode < 0 else f"exit code {worker.exitcode}"
            return f"was ended by {by}"
    return None
