"""The teacher's features and maps of a few views per image, computed once and then read in every epoch.

A cache is a folder. `cache.json` records the settings that it was made with. A file such as view-003-000012.fp16 holds
the features (n, D_t), float16, of one shard of images in one view, and map4-003-000012.fp16 their maps on a 4 x 4 grid
(`gendd.distillation.cached_rows`). The SHA-256 of these bytes follows. Files are written atomically: an interrupted
fill can resume, and several processes can fill and read one cache. A run that needs more views, or a map, adds them.
"""

import hashlib
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting, UserError
from gendd.core.files import write_whole
from gendd.core.long_work import LongWork
from gendd.core.retry import retried
from gendd.data.batch import Batch, TrainingData
from gendd.distillation.cached_rows import Float16Rows, Int8Maps, Rows
from gendd.distillation.teacher import FrozenTeacher
from gendd.runs.claim import claim

# Images per shard; an interrupted fill loses at most one shard per process.
SHARD_IMAGES = 4096
TEACHER_BATCH = 256
DIGEST_BYTES = hashlib.sha256().digest_size
# Number of images that check a cache against the teacher, and their greatest relative distance. For resnet56 on
# CIFAR-100, bf16 moves the features by 1 %, a shift by one pixel by 10 %, and another view by 20 %.
TRIED_IMAGES, MOST_APART = 32, 0.05


def cache_of(config: Config, data: TrainingData, teacher: FrozenTeacher) -> "TeacherCache":
    """Return the configured cache without touching its folder."""
    outputs = [Output("view", slice(0, teacher.width), Float16Rows(teacher.width))]
    if teacher.grid:
        locations, channels = teacher.grid**2, teacher.map_width
        name = f"map{teacher.grid}" if teacher.layer is None else f"map{teacher.grid}-layer{teacher.layer}"
        int8 = config.data.cached_maps == "int8"
        rows = Int8Maps(locations, channels) if int8 else Float16Rows(locations * channels)
        outputs.append(Output(name, slice(teacher.width, teacher.output_width), rows))
    return TeacherCache(Path(config.data.teacher_cache or ""), config.views, data, outputs)


def open_cache(config: Config, data: TrainingData, teacher: FrozenTeacher, world: World) -> "TeacherCache":
    """Open the configured cache, check it, and compute the missing features.

    Raises:
        UserError: the cache was made with other settings, or it is damaged.
    """
    cache = cache_of(config, data, teacher)
    if world.is_first:
        normalization = {name: getattr(config.networks, name) for name in ("teacher_mean", "teacher_std")}
        given = {name: values for name, values in normalization.items() if values}
        if teacher.kind != "pooled":
            given["teacher_feature"] = teacher.kind
        if config.networks.teacher_image_size:
            given["teacher_image_size"] = config.networks.teacher_image_size
        width = {"feature_width": teacher.width}
        cache.claim({"teacher": config.networks.teacher, **given, **_teacher_settings(teacher), **width})
        print(cache.describe(), flush=True)
    world.barrier()
    if not cache.record.exists():
        raise cache.refusal(f"process {world.rank} does not see it; choose a folder that all machines share")
    cache.verify(world)
    if world.is_first:
        cache.compare_with_teacher(teacher.outputs_of)
    world.barrier()
    work = LongWork(world)
    cache.fill(teacher.outputs_of, work)
    work.finish()
    return cache


def _teacher_settings(teacher: FrozenTeacher) -> dict:
    weights = hashlib.sha256()
    for name, value in teacher.model.state_dict().items():
        weights.update(name.encode())
        weights.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {"teacher_weights_sha256": weights.hexdigest(), "teacher_precision": teacher.precision}


@dataclass(frozen=True)
class Output:
    """An output of the teacher: the first word of its files, its columns in `outputs_of`, and their format."""

    name: str
    columns: slice
    rows: Rows


@dataclass(frozen=True)
class Shard:
    """A range of image indices of a data set, in one view."""

    view: int
    images: range

    def batches(self) -> Iterator[tuple[int, range]]:
        for first in range(0, len(self.images), TEACHER_BATCH):
            yield self.view, self.images[first : first + TEACHER_BATCH]


class TeacherCache:
    """A folder with outputs of the teacher for the training images in their first `views` views."""

    def __init__(self, folder: Path, views: int, data: TrainingData, outputs: list[Output]):
        self.folder, self.views, self.data, self.outputs = folder, views, data, outputs
        self.record = self.folder / "cache.json"
        self.shards = [shard for view in range(views) for shard in self.shards_of(view)]
        self.mapped_view: int | None = None
        self.mapped: list[list[np.ndarray]] = []

    def shards_of(self, view: int) -> list[Shard]:
        images = range(self.data.size)
        return [Shard(view, images[first : first + SHARD_IMAGES]) for first in images[::SHARD_IMAGES]]

    def path(self, output: Output, shard: Shard) -> Path:
        number = shard.images.start // SHARD_IMAGES
        return self.folder / f"{output.name}-{shard.view:03d}-{number:06d}.{output.rows.ending}"

    def missing(self, shard: Shard) -> list[Output]:
        """Return the outputs whose file of a shard does not exist."""
        return [output for output in self.outputs if not self.path(output, shard).exists()]

    def own(self, world: World) -> list[Shard]:
        """Return the shards that this process checks and computes."""
        return self.shards[world.rank :: world.size]

    def describe(self) -> str:
        """Return the plan's line about the cache, with its size."""
        absent = sum(bool(self.missing(shard)) for shard in self.shards)
        size = self.views * self.data.size * sum(output.rows.row_bytes for output in self.outputs) / 1e6
        views = f"{self.views} view{'s' * (self.views > 1)} of {self.data.size} images"
        what = "features and maps" if len(self.outputs) > 1 else "features"
        shards = f"{absent} of {len(self.shards)} shards to compute"
        return f"  {'cache':<10} {self.folder}: {what}, {views}, {size:.1f} MB; {shards}"

    def refusal(self, reason: str) -> UserError:
        return InvalidSetting("teacher_cache", self.folder, reason)

    def claim(self, made_from: dict) -> None:
        """Record the settings of the cache and of the data's views, or compare them with those on record.

        Raises:
            UserError: the cache was made with other settings; the message lists the differences.
        """
        mine = made_from | self.data.view_settings() | {"images_a_shard": SHARD_IMAGES}
        claim(self.record, mine, "teacher_cache", "view-*", added=("image_contents_sha256",))

    def verify(self, world: World) -> None:
        """Compare this process's existing shards with their checksums.

        Raises:
            UserError: a shard is damaged.
        """
        for shard, output in itertools.product(self.own(world), self.outputs):
            path, size = self.path(output, shard), len(shard.images) * output.rows.row_bytes
            if path.exists() and not _is_sealed(retried(path.read_bytes, path), size):
                raise self.refusal(f"{path.name} is damaged; delete this file, then run the same command again")

    def compare_with_teacher(self, compute: Callable[[Tensor], Tensor]) -> None:
        """Compare the first cached outputs, if they exist, with the teacher's outputs of now.

        The image files, or the libraries that transform them, may have changed since the cache was made.

        Raises:
            UserError: the outputs differ by more than `MOST_APART`.
        """
        first, missing = self.shards[0], self.missing(self.shards[0])
        stored_outputs = [output for output in self.outputs if output not in missing]
        if not stored_outputs:
            return
        images = first.images[:TRIED_IMAGES]
        today = compute(next(iter(self.data.view_batches([(first.view, images)])))).cpu()
        for output in stored_outputs:
            stored = output.rows.decode(torch.from_numpy(self.map(output, first)[: len(images)]))
            apart = _apart(stored, today[:, output.columns])
            if apart > MOST_APART:
                raise self.refusal(
                    f"the teacher's features now differ by {apart:.0%} from the cached ones in "
                    f"{self.path(output, first).name}: images or libraries have changed; delete the folder, or choose "
                    "another"
                )

    def fill(self, compute: Callable[[Tensor], Tensor], work: LongWork) -> None:
        """Compute this process's missing shards.

        Raises:
            UserError: a feature does not fit into its format.
        """
        shards = [shard for shard in self.own(work.world) if self.missing(shard)]
        images = iter(self.data.view_batches([batch for shard in shards for batch in shard.batches()]))
        quiet = not (work.world.is_first and sys.stderr.isatty())
        for shard in tqdm(shards, "teacher cache", disable=quiet, leave=False, dynamic_ncols=True):
            parts = []
            for _ in shard.batches():
                parts.append(compute(next(images)).cpu())
                work.go_on()
            computed = torch.cat(parts)
            for output in self.missing(shard):
                stored = output.rows.encode(computed[:, output.columns])
                apart = _apart(output.rows.decode(stored), computed[:, output.columns])
                if not math.isfinite(apart):
                    raise self.refusal("a feature of the teacher does not fit into float16; train without a cache")
                if isinstance(output.rows, Int8Maps) and shard == self.shards[0]:
                    print(f"  {'cache':<10} int8 moves the maps by {apart:.2%} of their norm", flush=True)
                write_whole(self.path(output, shard), partial(_write_sealed, stored.numpy().tobytes()), shared=True)

    def map(self, output: Output, shard: Shard) -> np.ndarray:
        """Return the rows (n, bytes) of a shard as a memory map."""
        shape = len(shard.images), output.rows.row_bytes
        rows = np.memmap(self.path(output, shard), np.uint8, "c", shape=shape)
        # Indexing a plain array on the same memory takes a fraction of the time.
        return rows.view(np.ndarray)

    def features(self, batch: Batch) -> Tensor:
        """Return the outputs (B, D_t) or (B, D_t + L D_m), float32 on the CPU, of a batch.

        Raises:
            ValueError: the batch does not have image indices.
        """
        if batch.view != self.mapped_view:
            self.mapped_view, shards = batch.view, self.shards_of(batch.view)
            self.mapped = [[self.map(output, shard) for shard in shards] for output in self.outputs]
        if batch.indices is None:
            raise ValueError("images of shards do not have indices, which a cache needs")
        places = [divmod(image, SHARD_IMAGES) for image in batch.indices.tolist()]
        stored = (np.stack([mapped[shard][row] for shard, row in places]) for mapped in self.mapped)
        return torch.cat(
            [o.rows.decode(torch.from_numpy(rows)) for o, rows in zip(self.outputs, stored, strict=True)], 1
        )


def _apart(stored: Tensor, computed: Tensor) -> float:
    """Return the distance of stored from computed values, relative to the computed."""
    return (stored - computed).norm().item() / (computed.norm().item() or 1)


def _write_sealed(content: bytes, file: BinaryIO) -> None:
    file.write(content + _digest(content))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_sealed(content: bytes, size: int) -> bool:
    """Return whether a file holds `size` bytes followed by their checksum."""
    return len(content) > size and content[size:] == _digest(content[:size])
