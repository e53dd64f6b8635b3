"""The value of `teacher_weights` for a teacher whose features are stored beside the training images."""

import re
from dataclasses import dataclass
from typing import Self

NAME = re.compile(r"reinforced:(\d+)\+(\d+):([0-9a-f]*):(.*)")


@dataclass(frozen=True)
class StoredWeights:
    """What a configuration states in place of a teacher's weights.

    Args:
        width: D_t.
        map_width: D_m; 0 without a map.
        checksum: SHA-256 of the tensors of the network that computed the features.
        license: its license, as `LoadedNetwork` has it.
    """

    width: int
    map_width: int
    checksum: str
    license: str

    @classmethod
    def named(cls, weights: str | None) -> Self | None:
        """Return what the value of `teacher_weights` states; None for the weights of a network."""
        found = NAME.fullmatch(weights or "")
        return cls(int(found[1]), int(found[2]), found[3], found[4]) if found else None

    def __str__(self) -> str:
        return f"reinforced:{self.width}+{self.map_width}:{self.checksum}:{self.license}"
