"""The teacher's features of a few views per image, computed once and then read in every epoch.

A cache is a folder. `cache.json` records the settings that it was made with. A file such as view-003-000012.fp16 holds
the features (n, D_t), float16, of one shard of images in one view, each followed by the teacher's map if the run has a
dense term. The SHA-256 of these bytes follows. Files are
written atomically: an interrupted fill can resume, and several processes can fill and read one cache. A run that needs
more views adds them.
"""

import hashlib
import json
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
from gendd.core.retry import retried
from gendd.data.batch import Batch, TrainingData
from gendd.distillation.teacher import FrozenTeacher

# Images per shard; an interrupted fill loses at most one shard per process.
SHARD_IMAGES = 4096
TEACHER_BATCH = 256
DIGEST_BYTES = hashlib.sha256().digest_size
# Number of images that check a cache against the teacher, and their greatest relative distance. For resnet56 on
# CIFAR-100, bf16 moves the features by 1 %, a shift by one pixel by 10 %, and another view by 20 %.
TRIED_IMAGES, MOST_APART = 32, 0.05


def open_cache(config: Config, data: TrainingData, teacher: FrozenTeacher, world: World) -> "TeacherCache":
    """Open the configured cache, check it, and compute the missing features.

    Raises:
        UserError: the cache was made with other settings, or it is damaged.
    """
    cache = TeacherCache(config.data.teacher_cache, config.views, data, teacher.output_width)
    if world.is_first:
        normalization = {name: getattr(config.networks, name) for name in ("teacher_mean", "teacher_std")}
        given = {name: values for name, values in normalization.items() if values}
        if teacher.kind != "pooled":
            given["teacher_feature"] = teacher.kind
        if teacher.grid:
            given |= {"dense_grid": teacher.grid, "dense_layer": teacher.layer}
        if config.networks.teacher_image_size:
            given["teacher_image_size"] = config.networks.teacher_image_size
        cache.claim({"teacher": config.networks.teacher, **given, **_teacher_settings(teacher)})
        print(f"  cache      {cache.describe()}", flush=True)
    world.barrier()
    if not cache.record.exists():
        raise cache.refusal(f"process {world.rank} does not see it; choose a folder that all machines share")
    cache.verify(world)
    if world.is_first:
        cache.compare_with_teacher(teacher.outputs_of)
    world.barrier()
    cache.fill(teacher.outputs_of, world)
    world.barrier()
    return cache


def _teacher_settings(teacher: FrozenTeacher) -> dict:
    weights = hashlib.sha256()
    for name, value in teacher.model.state_dict().items():
        weights.update(name.encode())
        weights.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return {"teacher_weights_sha256": weights.hexdigest(), "teacher_precision": teacher.precision}


@dataclass(frozen=True)
class Shard:
    """A range of image indices of a data set, in one view."""

    view: int
    images: range

    @property
    def name(self) -> str:
        return f"view-{self.view:03d}-{self.images.start // SHARD_IMAGES:06d}.fp16"

    def batches(self) -> Iterator[tuple[int, range]]:
        for first in range(0, len(self.images), TEACHER_BATCH):
            yield self.view, self.images[first : first + TEACHER_BATCH]


class TeacherCache:
    """A folder with the teacher's features of the training images in their first `views` views."""

    def __init__(self, folder: str, views: int, data: TrainingData, width: int):
        self.folder, self.views, self.data, self.width = Path(folder), views, data, width
        self.record = self.folder / "cache.json"
        self.shards = [shard for view in range(views) for shard in self.shards_of(view)]
        self.mapped_view: int | None = None
        self.mapped: list[np.ndarray] = []

    def shards_of(self, view: int) -> list[Shard]:
        images = range(self.data.size)
        return [Shard(view, images[first : first + SHARD_IMAGES]) for first in images[::SHARD_IMAGES]]

    def path(self, shard: Shard) -> Path:
        return self.folder / shard.name

    def own(self, world: World) -> list[tuple[Path, Shard]]:
        """Return the shards that this process checks and computes, with their files."""
        return [(self.path(shard), shard) for shard in self.shards[world.rank :: world.size]]

    def feature_bytes(self, shard: Shard) -> int:
        return len(shard.images) * self.width * np.float16().nbytes

    def describe(self) -> str:
        absent = sum(not self.path(shard).exists() for shard in self.shards)
        size = sum(map(self.feature_bytes, self.shards)) / 1e6
        views = f"{self.views} view{'s' * (self.views > 1)} of {self.data.size} images"
        return f"{self.folder}: {views}, {size:.1f} MB; {absent} of {len(self.shards)} shards to compute"

    def refusal(self, reason: str) -> UserError:
        return InvalidSetting("teacher_cache", self.folder, reason)

    def claim(self, made_from: dict) -> None:
        """Record the settings of the cache and of the data's views, or compare them with those on record.

        Raises:
            UserError: the cache was made with other settings; the message lists the differences.
        """
        remedy = "name another folder, or delete this one"
        mine = made_from | self.data.view_settings() | {"feature_width": self.width, "images_a_shard": SHARD_IMAGES}
        mine = json.loads(json.dumps(mine))
        if not self.record.exists():
            if next(self.folder.glob("view-*"), None):
                raise self.refusal(f"holds features, but its cache.json is missing; {remedy}")
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self.refusal(f"cannot be made ({error.strerror}); name another folder") from error
            content = (json.dumps(mine, indent=2) + "\n").encode()
            write_whole(self.record, lambda file: file.write(content), shared=True)
        try:
            theirs = json.loads(retried(self.record.read_text, self.record))
        except (OSError, ValueError) as error:
            raise self.refusal(f"its cache.json is damaged; {remedy}") from error
        differing = [
            f"{name.replace('_', ' ')} {_short(theirs.get(name))} there, {_short(mine.get(name))} here"
            for name in sorted({*mine, *theirs})
            if theirs.get(name) != mine.get(name)
        ]
        if differing:
            raise self.refusal(f"was made from other settings: {'; '.join(differing)}; {remedy}")

    def verify(self, world: World) -> None:
        """Compare this process's existing shards with their checksums.

        Raises:
            UserError: a shard is damaged.
        """
        for path, shard in self.own(world):
            if path.exists() and not _is_sealed(retried(path.read_bytes, path), self.feature_bytes(shard)):
                raise self.refusal(f"{path.name} is damaged; delete this file, then run the same command again")

    def compare_with_teacher(self, feature: Callable[[Tensor], Tensor]) -> None:
        """Compare the first cached features, if they exist, with features that the teacher computes now.

        The image files, or the libraries that transform them, may have changed since the cache was made.

        Raises:
            UserError: the features differ by more than `MOST_APART`.
        """
        first = self.shards[0]
        if not self.path(first).exists():
            return
        images = first.images[:TRIED_IMAGES]
        stored = torch.from_numpy(self.map(first)[: len(images)]).float()
        today = feature(next(iter(self.data.view_batches([(first.view, images)])))).cpu()
        apart = (today - stored).norm().item() / (today.norm().item() or 1)
        if apart > MOST_APART:
            raise self.refusal(
                f"the teacher's features now differ by {apart:.0%} from the cached ones in {first.name}: images or "
                "libraries have changed; delete the folder, or choose another"
            )

    def fill(self, feature: Callable[[Tensor], Tensor], world: World) -> None:
        """Compute this process's missing shards.

        Raises:
            UserError: a feature does not fit into float16.
        """
        missing = [(path, shard) for path, shard in self.own(world) if not path.exists()]
        images = iter(self.data.view_batches([batch for _, shard in missing for batch in shard.batches()]))
        quiet = not (world.is_first and sys.stderr.isatty())
        for path, shard in tqdm(missing, "teacher cache", disable=quiet, leave=False, dynamic_ncols=True):
            features = torch.cat([feature(next(images)).half().cpu() for _ in shard.batches()])
            if not features.isfinite().all():
                raise self.refusal("a feature of the teacher does not fit into float16; train without a cache")
            write_whole(path, partial(_write_sealed, features.numpy().tobytes()), shared=True)

    def map(self, shard: Shard) -> np.ndarray:
        """Return the features (n, D_t) of a shard as a memory map."""
        rows = np.memmap(self.path(shard), np.float16, "c", shape=(len(shard.images), self.width))
        # Indexing a plain array on the same memory takes a fraction of the time.
        return rows.view(np.ndarray)

    def features(self, batch: Batch) -> Tensor:
        """Return the features (B, D_t), float16 on the CPU, of a batch.

        Raises:
            ValueError: the batch does not have image indices.
        """
        if batch.view != self.mapped_view:
            self.mapped_view, self.mapped = batch.view, [self.map(shard) for shard in self.shards_of(batch.view)]
        if batch.indices is None:
            raise ValueError("images of shards do not have indices, which a cache needs")
        rows = (divmod(image, SHARD_IMAGES) for image in batch.indices.tolist())
        return torch.from_numpy(np.stack([self.mapped[shard][row] for shard, row in rows]))


def _write_sealed(content: bytes, file: BinaryIO) -> None:
    file.write(content + _digest(content))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_sealed(content: bytes, size: int) -> bool:
    """Return whether a file holds `size` bytes followed by their checksum."""
    return len(content) > size and content[size:] == _digest(content[:size])


def _short(value) -> str:
    """Format a value for an error message; shorten a checksum."""
    return value[:12] if isinstance(value, str) and len(value) == 2 * DIGEST_BYTES else str(value)
