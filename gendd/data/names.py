"""Names in one block of bytes, which processes can share; a Python object per name would take 60 bytes more."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

# Number of names that are copied at the same time, to bound the temporary memory.
CHUNK = 10_000


class Names:
    """N names as bytes, in a fixed order.

    Args:
        text: (T,) uint8, all names without separators.
        places: (N + 1,) int64, the place in `text` where each name begins, and the end of the last one.
    """

    def __init__(self, text: np.ndarray, places: np.ndarray):
        self.text, self.places = text, places

    @classmethod
    def of(cls, names: Iterable[bytes]) -> "Names":
        text, places = bytearray(), array("q", [0])
        for name in names:
            text += name
            places.append(len(text))
        return cls(np.frombuffer(text, np.uint8), np.frombuffer(places, np.int64))

    def __len__(self) -> int:
        return len(self.places) - 1

    def __getitem__(self, index: int) -> bytes:
        index = range(len(self))[index]
        return self.text[self.places[index] : self.places[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        for first in range(0, len(self), CHUNK):
            places = self.places[first : first + CHUNK + 1]
            text = self.text[places[0] : places[-1]].tobytes()
            for begin, end in pairwise((places - places[0]).tolist()):
                yield text[begin:end]

    def select(self, indices: np.ndarray) -> "Names":
        """Return a copy of the names at these indices, in this order, or where the (N,) mask is true."""
        rows = np.flatnonzero(indices) if indices.dtype == bool else indices
        starts = self.places[rows]
        lengths = self.places[rows + 1] - starts
        places = np.concatenate([[0], lengths.cumsum()])
        text = np.empty(places[-1], np.uint8)
        for first in range(0, len(rows), CHUNK):
            part = slice(first, first + CHUNK)
            moves = np.repeat(starts[part] - places[:-1][part], lengths[part])
            begin = places[first]
            text[begin : begin + len(moves)] = self.text[np.arange(begin, begin + len(moves)) + moves]
        return Names(text, places)
