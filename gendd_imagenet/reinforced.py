"""Folders of reinforced shards: their record, and what a training may not change.

OUT/reinforced.json   the teacher, its license, the views, the format
OUT/00000.tar         a shard: each image with its captions, followed by NAME.teacher.safetensors
                      (`gendd_imagenet.stored_views`)
OUT/00000.held-out    a tar file of the images that are held out of this shard, with the features of their center view
OUT/sizes.json        the number of images of each shard; it exists once all shards do
"""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from gendd.config import Config, Data
from gendd.core.errors import InvalidSetting
from gendd.core.retry import retried
from gendd.core.tar import Member
from gendd.data import image_files
from gendd.data.split import Split
from gendd.distillation.stored_weights import StoredWeights
from gendd.networks.timm_names import TIMM
from gendd.runs.claim import read_record
from gendd_imagenet import shard_index
from gendd_imagenet.shards import UnreadableShard, members_of
from gendd_imagenet.stored_views import ENDING, DamagedViews, ViewFormat

RECORD, HELD_OUT_ENDING = "reinforced.json", ".held-out"
# Settings of the views. They have the same names in the record and in the configuration of a run.
VIEW_SETTINGS = ("image_size", "crop_scale", "hflip", "color_jitter", "auto_augment", "interpolation", "crop_pct")
# They draw the views.
LIBRARIES = ("torch", "torchvision", "timm", "pillow")
NEEDED = {"shards", "feature_width", "map_width", "dense_grid", "dense_layer", "dtype", "views", "teacher"} | {
    *(
        "teacher_feature",
        "teacher_image_size",
        "teacher_mean",
        "teacher_std",
        "teacher_tensors_sha256",
        "teacher_license",
    ),
    *VIEW_SETTINGS,
}

# An image and its stored views.
Pair = tuple[bytes, bytes]


def is_reinforced(name: str | None) -> bool:
    """Return whether a name belongs to a folder of reinforced shards."""
    return bool(name) and Path(str(name), RECORD).is_file()


def reinforced_images(shard: Path) -> int:
    """Return the number of images with features in a shard, from its headers alone."""
    with tarfile.open(shard, "r:") as archive:
        return sum(name.endswith(ENDING) for name in archive.getnames())


def pairs_of(shard: str) -> Iterator[tuple[str, Pair]]:
    """Yield the name of each image of a shard, its content and the content of its stored views, b"" without any.

    Raises:
        UnreadableShard: the shard cannot be read to its end, or holds no images.
        PassingFault: the disk or the network failed at every try.
    """
    image: tuple[str, bytes] | None = None
    found = False
    for name, content, is_image in members_of(shard):
        if name.endswith(ENDING) and image:
            yield f"{shard}: {image[0]}", (image[1], content)
            image, found = None, True
        elif is_image:
            if image:
                yield f"{shard}: {image[0]}", (image[1], b"")
            image = name, content
    if image:
        yield f"{shard}: {image[0]}", (image[1], b"")
    if not (found or image):
        raise UnreadableShard(f"{shard} holds no image; write it again")


@dataclass(frozen=True)
class Reinforced:
    """A folder of reinforced shards, and its record."""

    folder: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: str) -> Self:
        """Read the record of a folder.

        Raises:
            InvalidSetting: the record is damaged, or shards are missing.
        """
        found = cls(Path(folder), read_record(Path(folder, RECORD), "images"))
        missing = NEEDED - found.record.keys()
        if missing:
            reason = f"its {RECORD} does not state {', '.join(sorted(missing))}; reinforce the images again"
            raise InvalidSetting("images", folder, reason)
        if not (found.folder / shard_index.NAME).exists():
            reason = f"its shards are not complete, as {shard_index.NAME} is missing; repeat the command of reinforce"
            raise InvalidSetting("images", folder, reason)
        there = set(os.listdir(folder))
        absent = [name for name in found.shards if name not in there]
        if absent:
            reason = f"{len(absent)} of its shards are missing, such as {absent[0]}; repeat the command of reinforce"
            raise InvalidSetting("images", folder, reason)
        return found

    @property
    def shards(self) -> list[str]:
        """Return the names of the shards."""
        return [f"{number:05d}.tar" for number in range(self.record["shards"])]

    @property
    def weights(self) -> StoredWeights:
        record = self.record
        source = record["teacher_tensors_sha256"] or "", record["teacher_license"]
        return StoredWeights(record["feature_width"], record["map_width"], *source)

    @property
    def format(self) -> ViewFormat:
        return ViewFormat.of(self.record)

    def contents(self) -> str:
        """Return a checksum of the record, to which each file of features belongs."""
        return hashlib.sha256(self.format.record).hexdigest()

    def settle(self, config: Config, defaults: Data) -> Config:
        """Return the configuration with the teacher and the views on record.

        Raises:
            InvalidSetting: it names others.
        """
        networks, data, record = config.networks, config.data, self.record
        stored = str(self.weights)
        if networks.more_teachers:
            reason = f"`images` {self.folder} holds the features of one; name it alone, or train on other images"
            raise InvalidSetting("teacher", " ".join(networks.teacher_names), reason)
        self._require("teacher", networks.teacher, (None, record["teacher"]), record["teacher"])
        self._require("teacher_weights", networks.teacher_weights, (None, TIMM, stored), "its own")
        self._require("teacher_feature", networks.teacher_feature, ("auto", record["teacher_feature"]))
        for name in ("teacher_image_size", "teacher_mean", "teacher_std"):
            self._require(name, getattr(networks, name), (None, _tuple(record[name])))
        views = {name: _tuple(record[name]) for name in VIEW_SETTINGS}
        for name, value in views.items():
            self._require(name, getattr(data, name), (getattr(defaults, name), value))
        for name in ("mixup", "cutmix"):
            if getattr(data, name):
                reason = f"mixes images, whose features are not in `images` {self.folder}; set it to 0"
                raise InvalidSetting(name, getattr(data, name), f"{reason} (`feature_mixup` still works)")
        return config.changed(
            teacher=record["teacher"],
            teacher_weights=stored,
            teacher_feature=record["teacher_feature"],
            **views,
        )

    def check(self, config: Config) -> None:
        """Refuse a method that learns from more than what is stored.

        Raises:
            InvalidSetting: it needs other maps, or other evaluation images are given.
        """
        method, record = config.method, self.record
        grid = record["dense_grid"]
        if method.dense_grid and method.dense_grid != grid:
            maps = f"maps with `dense_grid` {grid}" if grid else "no maps"
            reason = f"`images` {self.folder} holds {maps}; use this, or reinforce the images again"
            raise InvalidSetting("dense_grid", method.dense_grid, reason)
        if method.dense_grid:
            self._require("dense_layer", method.dense_layer, (record["dense_layer"],))
        if config.data.eval_dataset:
            reason = f"its features are not in `images` {self.folder}, which holds images to evaluate on; leave it out"
            raise InvalidSetting("eval_dataset", config.data.eval_dataset, reason)

    def _require(self, name: str, value: object, allowed: tuple, stated: object = None) -> None:
        if value not in allowed:
            stated = allowed[-1] if stated is None else stated
            stated = " ".join(map(str, stated)) if isinstance(stated, tuple) else stated
            reason = f"`images` {self.folder} holds features for {stated}; leave it out, or reinforce the images again"
            raise InvalidSetting(name, value, reason)

    def held_out(self) -> "HeldOut":
        """List the held-out images.

        Raises:
            InvalidSetting: there are none, or a file is missing or damaged.
        """
        entries = []
        for name in self.shards:
            path = (self.folder / name).with_suffix(HELD_OUT_ENDING)
            try:
                with tarfile.open(path, "r:", tarinfo=Member) as archive:
                    members = archive.getmembers()
            except (OSError, tarfile.TarError) as error:
                reason = f"{path.name} is missing or damaged ({error}); delete it, then repeat the command of reinforce"
                raise InvalidSetting("images", self.folder, reason) from error
            entries += [(path, image, views) for image, views in pairwise(members) if views.name.endswith(ENDING)]
        if not entries:
            raise InvalidSetting("images", self.folder, "no image is held out; reinforce with a greater `holdout`")
        return HeldOut(self, entries)


@dataclass(frozen=True)
class HeldOut(Split):
    """N held-out images with the teacher's features of their center views.

    Args:
        entries: file, and members of image and views.
    """

    reinforced: Reinforced
    entries: list[tuple[Path, tarfile.TarInfo, tarfile.TarInfo]]
    labels: Tensor | None = None
    classes: tuple[str | None, ...] = ()
    passed_over: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, index: int) -> str:
        path, image, _ = self.entries[index]
        return f"{path}: {image.name}"

    def content(self, index: int) -> bytes:
        """Read the bytes of an image."""
        path, image, _ = self.entries[index]
        return retried(lambda: _read(path, image), path)

    def feature(self, index: int) -> Tensor:
        """Read the teacher's feature (D_t,), float32, of an image.

        Raises:
            InvalidSetting: it is damaged.
        """
        path, _, views = self.entries[index]
        try:
            stored = retried(lambda: _read(path, views), path)
            format = self.reinforced.format
            outputs = format.values(format.decode(self.content(index), stored, 1))
        except DamagedViews as error:
            raise damaged(self.name(index), error) from error
        return outputs[0, : self.reinforced.record["feature_width"]]

    def select(self, indices: Tensor) -> "HeldOut":
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, entries=[self.entries[index] for index in indices.tolist()], labels=labels)

    def with_labels(self, labels: Tensor) -> "HeldOut":
        return replace(self, labels=labels)

    def checksum(self) -> str:
        """Return a checksum of the names and sizes of the files."""
        return image_files.checksum(self.reinforced.folder, sorted({path.name for path, *_ in self.entries}))


def damaged(name: str, error: DamagedViews) -> InvalidSetting:
    """Return the error about an image whose stored views cannot be used."""
    file = name.partition(": ")[0]
    return InvalidSetting("images", name, f"{error}; delete {file}, then repeat the command of reinforce")


def _read(path: Path, member: tarfile.TarInfo) -> bytes:
    with open(path, "rb") as file:
        file.seek(member.offset_data)
        return file.read(member.size)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
