"""The training images of reinforced shards, with the outputs of their teacher."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gendd.core.errors import InvalidSetting
from gendd_imagenet.loading import Chunk, StreamedImages
from gendd_imagenet.reinforced import Pair, Reinforced, damaged, pairs_of
from gendd_imagenet.stored_views import DamagedViews
from gendd_imagenet.streams import ShardSet


class ReinforcedImages(StreamedImages):
    """Chunks from reinforced shards. Each pass over the images shows another of their views.

    A view is drawn again from its seed, and compared with the crop and flip that were stored with its features.
    """

    def __init__(self, reinforced: Reinforced, shards: ShardSet, *arguments: Any):
        super().__init__(replace(shards, read=pairs_of), *arguments)
        self.format, self.views, self.record = reinforced.format, reinforced.record["views"], reinforced.record

    def draw(self, name: str, content: Pair, step: int, row: int) -> tuple[Tensor, Tensor]:
        """Return the view (3, S, S) uint8 of an image, and the outputs (D,) of the teacher for it."""
        image, stored = content
        try:
            tensors = self.format.decode(image, stored, self.views)
        except DamagedViews as error:
            raise damaged(name, error) from error
        number = step // self.length % self.views
        drawn = self.view.draw(image, int(tensors["seeds"][number]))
        if [*drawn.crop, drawn.flipped] != [*tensors["crops"][number].tolist(), bool(tensors["flips"][number])]:
            versions = ", ".join(
                f"{library} {self.record.get(library)}" for library in ("torch", "torchvision", "timm")
            )
            reason = f"its view {number} is not drawn again with the same crop; use the versions on record: {versions}"
            raise InvalidSetting("images", name, reason)
        one = {name: value[number : number + 1] for name, value in tensors.items()}
        return drawn.pixels, self.format.values(one)[0]

    def joined(self, views: list[tuple[Tensor, Tensor]], broken: tuple[str, ...]) -> Chunk:
        chunk = super().joined([pixels for pixels, _ in views], broken)
        return replace(chunk, outputs=torch.stack([outputs for _, outputs in views]))
