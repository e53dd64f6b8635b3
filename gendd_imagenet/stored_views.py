"""The file beside an image of a reinforced shard: its fixed views, and the teacher's features of each view.

NAME.teacher.safetensors holds these tensors for k views, a feature of D numbers, and a map of L locations with M
channels:

features        (k, D) float16, or int8 with features_scale (k,)
features_scale  (k,) float16, only with int8: the number that one step of int8 stands for
maps            (k, L, M) float16, or int8 with maps_scale (k, M); only with a map
maps_scale      (k, M) float16, only with int8
seeds           (k,) int64, the key from which `TrainView` draws the view again
crops           (k, 4) int32: top, left, height and width of the view in pixels of the image
flips           (k,) bool: whether the view is mirrored after the crop

Its metadata has one entry, "sha256": the SHA-256 of the folder's record as JSON with sorted keys, followed by the
image's bytes and the bytes of each tensor, in the order of their names. So a file belongs to one image and one record.
The idea of storing a teacher's outputs beside the images is that of dataset reinforcement (Faghri et al., 2023).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from gendd.core.seeding import generator
from gendd.distillation.cached_rows import Float16Rows, Int8Maps, Rows

ENDING = ".teacher.safetensors"
HEADER_BYTES = 8


class ViewKey(NamedTuple):
    """What a view is drawn again from, and its crop and flip, as in `gendd_imagenet.images.Drawn`."""

    seed: int
    crop: tuple[int, int, int, int]
    flipped: bool


# The only view of a held-out image is the center view of evaluation.
CENTER = ViewKey(0, (0, 0, 0, 0), False)


class DamagedViews(Exception):
    """Stored views that do not belong to their image, or not to their record. The message is the reason."""


def view_seed(image: bytes, view: int, seed: int) -> int:
    """Return the key of one of an image's views. It does not depend on the image's name or place."""
    return generator("cpu", seed, "stored view", view, hashlib.sha256(image).hexdigest()).initial_seed()


@dataclass(frozen=True)
class Stored:
    """The tensors of an output: (k, *shape) of the format of `rows`."""

    name: str
    shape: tuple[int, ...]
    rows: Rows

    @property
    def int8(self) -> bool:
        return isinstance(self.rows, Int8Maps)

    def tensors(self, values: Tensor) -> dict[str, Tensor]:
        """Return the tensors of values (k, prod(shape)), float32."""
        stored = self.rows.encode(values)
        scale, numbers = stored[:, : self.rows.scale_bytes], stored[:, self.rows.scale_bytes :]
        kind = torch.int8 if self.int8 else torch.float16
        found = {self.name: numbers.contiguous().view(kind).unflatten(1, self.shape)}
        if self.int8:
            found[f"{self.name}_scale"] = scale.contiguous().view(torch.float16).reshape(-1, *self.shape[1:])
        return {name: value.contiguous() for name, value in found.items()}

    def kinds(self, views: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Return the type and shape of each tensor."""
        if not self.int8:
            return {self.name: (torch.float16, (views, *self.shape))}
        # A feature has one scale, and each channel of a map.
        scale = torch.float16, (views, *self.shape[1:])
        return {self.name: (torch.int8, (views, *self.shape)), f"{self.name}_scale": scale}

    def values(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the values (k, prod(shape)), float32, of tensors."""
        names = [f"{self.name}_scale", self.name] if self.int8 else [self.name]
        parts = [tensors[name].reshape(len(tensors[name]), -1).view(torch.uint8) for name in names]
        return self.rows.decode(torch.cat(parts, 1))


class ViewFormat:
    """The format of the stored views of one teacher.

    Args:
        width: D.
        locations, channels: L and M of the map; 0 without one.
        int8: whether numbers are int8 with scales in place of float16.
        record: what the folder states about teacher and views.
    """

    def __init__(self, width: int, locations: int, channels: int, int8: bool, record: Mapping[str, Any] | None = None):
        self.record = json.dumps(record or {}, sort_keys=True).encode()
        self.outputs = [Stored("features", (width,), Int8Maps(width, 1) if int8 else Float16Rows(width))]
        if locations:
            rows = Int8Maps(locations, channels) if int8 else Float16Rows(locations * channels)
            self.outputs.append(Stored("maps", (locations, channels), rows))
        self.columns = [width, locations * channels][: len(self.outputs)]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Return the format that a folder's record states."""
        locations, int8 = record["dense_grid"] ** 2, record["dtype"] == "int8"
        return cls(record["feature_width"], locations, record["map_width"], int8, record)

    @property
    def view_bytes(self) -> int:
        """Bytes of the features and maps of a view."""
        return sum(output.rows.row_bytes for output in self.outputs)

    def rounded(self, outputs: Tensor) -> Tensor:
        """Return the outputs (k, D + L M), float32, as they are stored."""
        parts = zip(self.outputs, outputs.split(self.columns, 1), strict=True)
        return torch.cat([output.values(output.tensors(values)) for output, values in parts], 1)

    def encode(self, image: bytes, outputs: Tensor, keys: Sequence[ViewKey]) -> bytes:
        """Return the file of an image with k views.

        Args:
            outputs: (k, D + L M) float32, of `FrozenTeacher.outputs_of`.
        """
        tensors = {
            "seeds": torch.tensor([key.seed for key in keys]),
            "crops": torch.tensor([key.crop for key in keys], dtype=torch.int32),
            "flips": torch.tensor([key.flipped for key in keys]),
        }
        for output, values in zip(self.outputs, outputs.split(self.columns, 1), strict=True):
            tensors |= output.tensors(values)
        return safetensors.torch.save(tensors, {"sha256": self._digest(image, tensors)})

    def decode(self, image: bytes, content: bytes, views: int) -> dict[str, Tensor]:
        """Return the tensors of an image's file.

        Raises:
            DamagedViews: the file is damaged, belongs to another image or record, or has another format.
        """
        try:
            tensors = safetensors.torch.load(content)
            size = int.from_bytes(content[:HEADER_BYTES], "little")
            stated = json.loads(content[HEADER_BYTES:][:size])["__metadata__"]["sha256"]
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise DamagedViews("its features are damaged") from error
        found = {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}
        expected = {
            "seeds": (torch.int64, (views,)),
            "crops": (torch.int32, (views, 4)),
            "flips": (torch.bool, (views,)),
        }
        for output in self.outputs:
            expected |= output.kinds(views)
        if found != expected:
            raise DamagedViews("its features have another format or number of views than the record says")
        if stated != self._digest(image, tensors):
            raise DamagedViews("its features are damaged, or belong to another image or record")
        return tensors

    def values(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs (k, D + L M), float32, of an image's tensors."""
        return torch.cat([output.values(tensors) for output in self.outputs], 1)

    def _digest(self, image: bytes, tensors: Mapping[str, Tensor]) -> str:
        digest = hashlib.sha256(self.record + image)
        for name in sorted(tensors):
            digest.update(tensors[name].numpy().tobytes())
        return digest.hexdigest()
