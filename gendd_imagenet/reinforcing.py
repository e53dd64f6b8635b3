"""The work of the reinforce program: draw views of images, compute the teacher's features, write both to shards."""

import contextlib
import io
import itertools
import os
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from gendd.config import Config
from gendd.core.distributed import World, resolve_precision, usable_cores
from gendd.core.errors import InvalidSetting, InvalidValue, PassingFault, UserError, naming
from gendd.core.files import checksum, write_whole
from gendd.core.long_work import LongWork
from gendd.core.own_code import brief
from gendd.core.ranges import field_names
from gendd.core.seeding import generator
from gendd.core.shared import shared
from gendd.core.terminal import printable
from gendd.data.batch import Normalize
from gendd.data.decode import BrokenImage
from gendd.methods.regression import Regression
from gendd.runs.claim import claim
from gendd.runs.lock import Busy, sole_writer
from gendd.runs.networks import build_teacher, check_names_weights
from gendd_imagenet import loading, shard_index, shards
from gendd_imagenet.config import Photographs
from gendd_imagenet.family import FAMILY
from gendd_imagenet.folders import Listing, list_unlabeled
from gendd_imagenet.images import EvalView, TrainView
from gendd_imagenet.make_shards import add_file, sample_of
from gendd_imagenet.reinforce import ReinforceConfig
from gendd_imagenet.reinforced import (
    HELD_OUT_ENDING,
    LIBRARIES,
    RECORD,
    VIEW_SETTINGS,
    is_reinforced,
    reinforced_images,
)
from gendd_imagenet.sources import held_share
from gendd_imagenet.stored_views import CENTER, ENDING, ViewFormat, ViewKey, view_seed

GO_ON = "make room, or name another folder, then run the same command again; it resumes after the last whole shard"

# A file of a shard: its name, its content, and whether it is an image.
File = tuple[str, bytes, bool]


@dataclass(frozen=True)
class Sample:
    """The files of a shard whose names are the same up to the first dot."""

    files: list[File]
    held_out: bool

    @property
    def images(self) -> list[bytes]:
        return [content for _, content, is_image in self.files if is_image]


@dataclass(frozen=True)
class DrawnViews(loading.Chunk):
    """The views of some images: `images` are their pixels.

    Args:
        keys: of the views of each image; empty for a broken image.
    """

    keys: tuple[tuple[ViewKey, ...], ...] = ()


class Views(Dataset):
    """Map-style data set from samples to the views of their images."""

    def __init__(self, config: Config[Photographs], views: int):
        self.view, self.views, self.seed = TrainView(config), views, config.run.seed
        self.center = EvalView(config.data.image_size, config.data.crop_pct, config.data.interpolation)

    def __getitem__(self, samples: list[Sample]) -> loading.Chunk:
        return loading.made(self.chunk, samples)

    def chunk(self, samples: list[Sample]) -> DrawnViews:
        pixels: list[Tensor] = []
        keys: list[tuple[ViewKey, ...]] = []
        broken = []
        for sample in samples:
            for image in sample.images:
                try:
                    views = [self._center(image)] if sample.held_out else self._drawn(image)
                except BrokenImage as error:
                    views = []
                    broken.append(f"{sample.files[0][0]}: {error}")
                pixels += [view for view, _ in views]
                keys.append(tuple(key for _, key in views))
        images = loading.stacked(pixels) if pixels else torch.empty(0)
        return DrawnViews(images, torch.empty(0), tuple(broken), keys=tuple(keys))

    def _center(self, image: bytes) -> tuple[Tensor, ViewKey]:
        return self.center(image), CENTER

    def _drawn(self, image: bytes) -> list[tuple[Tensor, ViewKey]]:
        found = []
        for number in range(self.views):
            seed = view_seed(image, number, self.seed)
            drawn = self.view.draw(image, seed)
            found.append((drawn.pixels, ViewKey(seed, drawn.crop, drawn.flipped)))
        return found


class Reinforcing:
    """A folder of reinforced shards that is being written."""

    def __init__(self, config: ReinforceConfig, world: World):
        self.options, self.world, self.folder = config, world, Path(config.output)
        method = Regression(contraction=0.0, dense_grid=config.dense_grid, dense_layer=config.dense_layer)
        parts = vars(FAMILY.config(method)).values()
        known = {name for part in parts for name in field_names(type(part))}
        values = {name: value for name, value in asdict(config).items() if name in known}
        self.config = FAMILY.config(method, images=config.source, **values).resolved()
        check_names_weights(self.config.networks)
        self.sources, images, self.origin = self._sources()
        self.share = held_share(self.config, images)
        precision = resolve_precision(config.precision, world.device)
        # Random weights must be the same in all processes, and when the command resumes.
        torch.manual_seed(generator("cpu", config.seed, "initial weights").initial_seed())
        with world.local_first():
            self.teacher = build_teacher(self.config, FAMILY.zoo, 0, None, world.device, precision)
        self.normalize = Normalize.of(self.teacher.model, world.device)
        self.record = self._record()
        self.format = ViewFormat.of(self.record)
        self.views = Views(self.config, config.views)
        self.broken, self.reported, self.work = 0, False, LongWork(world)
        size = images * config.views * self.format.view_bytes / 1e6
        self._say(f"{self.folder}: {config.views} views of about {images} images in {len(self.sources)} shards, "
                  f"{config.dtype}, about {size:.1f} MB of features beside the images")  # fmt: skip

    def write(self) -> None:
        """Write the missing shards, and print how to train on them."""
        claim(self.folder / RECORD, self.record, "OUT", "*.tar")
        self.world.barrier()
        numbers = range(len(self.sources))[self.world.rank :: self.world.size]
        quiet = None if self.world.is_first else True
        for number in tqdm(numbers, "reinforced shards", disable=quiet, leave=False, dynamic_ncols=True):
            self._write_once(number)
        self.work.finish()
        paths = [self._path(number) for number in range(len(self.sources))]
        missing = sum(not _is_whole(path) for path in paths)
        broken = int(self.world.all_reduce(torch.tensor(self.broken, device=self.world.device)))
        aside = f"; left out {broken} broken image{'s' * (broken > 1)}" if broken else ""
        if missing:
            self._say(f"{missing} of {len(paths)} shards are still being written by other processes{aside}")
            return
        if self.world.is_first:
            sizes = {path.name: reinforced_images(path) for path in paths}
            content = shard_index.content(sizes).encode()
            write_whole(self.folder / shard_index.NAME, lambda file: file.write(content), shared=True, remedy=GO_ON)
            self._say(f"{sum(sizes.values())} images in {len(paths)} shards{aside}; train with --images {self.folder}")

    def _say(self, text: str) -> None:
        if self.world.is_first:
            print(printable(text), flush=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.tar"

    def _sources(self) -> tuple[list[Callable[[], Iterator[File]]], int, dict]:
        """Return a function per shard that yields its files, the number of images, and the record of the source."""
        source, options = self.options.source, self.options
        if is_reinforced(source):
            raise InvalidSetting("IMAGES", source, "already holds a teacher's features; name the original images")
        with naming("IMAGES"):
            if shards.is_shards(source):
                names = shards.expand(source)
                if absent := shards.absent_shards(names):
                    raise InvalidValue(source, f"{len(absent)} of its shards are missing, such as {absent[0]}")
                sizes = shard_index.read_sizes(names)
                # Without an index, counting all images would read all shards.
                images = len(names) * _count(source, names[0]) if sizes is None else sum(sizes)
                origin = {"shards": len(names), "images_sha256": shards.checksum(names)}
                return [partial(shards.members_of, name) for name in names], images, origin
            listing = shared(self.world, lambda: list_unlabeled(Path(source)))
        # Only a folder's order is random; the files of a shard keep their order.
        listing = listing.select(torch.randperm(len(listing), generator=generator("cpu", options.seed, "shards")))
        starts = range(0, len(listing), options.images_per_shard)
        rows = [range(first, min(first + options.images_per_shard, len(listing))) for first in starts]
        origin = {"shards": len(rows), "images_sha256": listing.checksum()}
        return [partial(_listed, listing, some) for some in rows], len(listing), origin

    def _record(self) -> dict:
        options, teacher, network = self.options, self.teacher, self.teacher.model
        loaded = teacher.loaded
        return {
            **self.origin,
            "teacher": options.teacher,
            "teacher_weights": str(loaded.file.name if loaded.file else loaded.loaded),
            "teacher_file_sha256": checksum(loaded.file) if loaded.file else None,
            "teacher_tensors_sha256": loaded.checksum,
            "teacher_license": loaded.license,
            "teacher_feature": teacher.kind,
            "teacher_image_size": teacher.image_size,
            "teacher_mean": list(network.pretrained_cfg["mean"]),
            "teacher_std": list(network.pretrained_cfg["std"]),
            "teacher_precision": teacher.precision,
            "feature_width": teacher.width,
            "map_width": teacher.map_width,
            "dense_grid": options.dense_grid,
            "dense_layer": options.dense_layer,
            "views": options.views,
            "dtype": options.dtype,
            "holdout": self.share,
            "seed": options.seed,
            **{name: getattr(options, name) for name in VIEW_SETTINGS},
            **{name: version(name) for name in LIBRARIES},
        }

    def _write_once(self, number: int) -> None:
        """Write a shard, unless it exists or another process is writing it."""
        path = self._path(number)
        lock = self.folder / ".writing" / path.name
        if not _is_whole(path):
            with contextlib.suppress(Busy), sole_writer(lock, "OUT"):
                if not _is_whole(path):
                    write_whole(path, partial(self._write, number), shared=True, remedy=GO_ON)
        # The last process leaves them empty.
        for folder in (lock, lock.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _write(self, number: int, file: BinaryIO) -> None:
        """Write the training images of a shard to a file, and its held-out images to a file next to it."""
        held = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as shard, tarfile.open(fileobj=held, mode="w") as held_out:
            for is_held, members in self._reinforced(number):
                for name, content in members:
                    add_file(held_out if is_held else shard, name, content)
        path = self._path(number).with_suffix(HELD_OUT_ENDING)
        write_whole(path, lambda file: file.write(held.getvalue()), shared=True, remedy=GO_ON)

    def _reinforced(self, number: int) -> Iterator[tuple[bool, list[tuple[str, bytes]]]]:
        """Yield for each sample of a shard whether it is held out, and all its files, those with features included."""
        groups: deque[list[Sample]] = deque()
        failures: list[Exception] = []
        workers = min(self.options.workers, usable_cores())
        for chunk in loading.chunks(self.views, workers, False, sampler=self._requests(number, groups, failures)):
            for line in chunk.broken:
                self.broken += 1
                print(printable(f"left out broken image: {line}"), file=sys.stderr, flush=True)
            keys, outputs = iter(cast(DrawnViews, chunk).keys), iter(self._computed(chunk.images))
            for sample in groups.popleft():
                if members := self._members(sample, keys, outputs):
                    yield sample.held_out, members
        if failures:
            raise failures[0]

    def _requests(self, number: int, groups: deque[list[Sample]], failures: list[Exception]) -> Iterator[list[Sample]]:
        """Yield the samples of a shard in groups, and append each group to `groups`.

        An error goes to `failures`: raised inside the loader, it would look like a worker's.
        """
        most = max(1, self.options.batch_size // self.options.views)
        try:
            samples = self._samples(number)
            while group := list(itertools.islice(samples, most)):
                groups.append(group)
                yield group
        except shards.UnreadableShard as error:
            failures.append(InvalidSetting("IMAGES", self.options.source, str(error)))
        except (UserError, PassingFault) as error:
            failures.append(error)
        except OSError as error:
            failures.append(InvalidSetting("IMAGES", self.options.source, f"{error.filename}: {error.strerror}"))

    def _samples(self, number: int) -> Iterator[Sample]:
        """Yield the samples of a shard. The held-out ones are spread evenly over it."""
        place = torch.rand((), generator=generator("cpu", "held out", number), dtype=torch.float64).item()
        files = (file for file in self.sources[number]() if not file[0].endswith(ENDING))
        for _, group in itertools.groupby(files, lambda file: _key(file[0])):
            sample = list(group)
            before = place
            place += self.share * any(is_image for _, _, is_image in sample)
            yield Sample(sample, int(place) > int(before))

    def _members(
        self, sample: Sample, keys: Iterator[tuple[ViewKey, ...]], outputs: Iterator[Tensor]
    ) -> list[tuple[str, bytes]]:
        """Return the files of a sample, each image followed by its features; none if an image is broken."""
        members, whole = [], True
        for name, content, is_image in sample.files:
            members.append((name, content))
            if is_image:
                of_image = next(keys)
                whole = whole and bool(of_image)
                if of_image:
                    rows = torch.stack([next(outputs) for _ in of_image])
                    members.append((_beside(name), self.format.encode(content, rows, of_image)))
        return members if whole else []

    def _computed(self, pixels: Tensor) -> Tensor:
        """Return the teacher's outputs (n, D + L M), float32 on the CPU, of views (n, 3, S, S) uint8."""
        if not len(pixels):
            return torch.empty(0)
        parts = []
        for part in pixels.split(self.options.batch_size):
            try:
                parts.append(self.teacher.outputs_of(self.normalize(part.to(self.world.device))).cpu())
            except RuntimeError as error:
                # Otherwise it would look like an error of the file that is being written.
                if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
                    reason = "needs too much memory; lower it"
                    raise InvalidSetting("batch_size", self.options.batch_size, reason) from error
                reason = f"fails on {len(part)} images ({brief(error)}); choose another network"
                raise InvalidSetting("teacher", self.options.teacher, reason) from error
            self.work.go_on()
        outputs = torch.cat(parts)
        if not self.format.rounded(outputs).isfinite().all():
            raise InvalidSetting("teacher", self.options.teacher, "a feature does not fit into float16; choose another")
        if self.options.dtype == "int8" and not self.reported:
            self.reported = True
            self._say(f"int8: {agreement(self.format, outputs)}")
        return outputs


def agreement(format: ViewFormat, outputs: Tensor) -> str:
    """Describe how far the stored outputs are from float16: the cosine per view, mean and least."""
    parts = [values.split(format.columns, 1) for values in (format.rounded(outputs), outputs.half().float())]
    words = []
    for output, stored, exact in zip(format.outputs, *parts, strict=True):
        cosine = torch.nn.functional.cosine_similarity(stored, exact)
        words.append(f"{output.name} have a cosine of {cosine.mean():.6f} (least {cosine.min():.6f}) with float16")
    return f"{', '.join(words)}, {len(outputs)} views"


def _listed(listing: Listing, rows: range) -> Iterator[File]:
    """Yield the files of a folder's images as those of a shard."""
    for row in rows:
        image, caption = sample_of(listing, row)
        yield *image, True
        yield *caption, False


def _is_whole(shard: Path) -> bool:
    """Return whether a shard and the file of its held-out images exist."""
    return shard.exists() and shard.with_suffix(HELD_OUT_ENDING).exists()


def _count(source: str, shard: str) -> int:
    try:
        return sum(1 for _ in shards.images_of(shard))
    except shards.UnreadableShard as error:
        raise InvalidValue(source, str(error)) from error


def _key(name: str) -> str:
    """Return the name of a file's sample, as webdataset defines it: the name up to the first dot of its last part."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.partition('.')[0]}"


def _beside(name: str) -> str:
    return os.path.splitext(name)[0] + ENDING
