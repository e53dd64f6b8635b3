"""Names in one block: compared with lists and NumPy's arrays of Python objects."""

import numpy as np
import pytest

from gendd.data import names as names_module
from gendd.data.names import Names

LIST = [b"b/1.jpg", b"", b"caf\xe9.png", b"line\nfeed", b"a" * 300, b"b/1.jpg", b"\0", b"end\0"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(names_module, "CHUNK", 3)


def test_names_are_those_of_the_list():
    names = Names.of(iter(LIST))
    assert list(names) == [names[index] for index in range(len(LIST))] == LIST and len(names) == 8
    assert names[-1] == LIST[-1]
    for index in (8, -9):
        with pytest.raises(IndexError):
            names[index]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 7])
def test_names_of_every_length_are_iterated(count):
    assert list(Names.of(LIST[:count])) == LIST[:count]


@pytest.mark.parametrize("rows", [[], [7], [3, 3, 0, 6, 2, 1, 7, 4, 5], list(range(8))])
def test_selection_by_number_equals_that_of_an_array(rows):
    rows = np.array(rows, np.int64)
    assert list(Names.of(LIST).select(rows)) == np.array(LIST, object)[rows].tolist()


@pytest.mark.parametrize("mask", [[True] * 8, [False] * 8, [True, False, False, True, True, False, True, False]])
def test_selection_by_mask_equals_that_of_an_array(mask):
    mask = np.array(mask)
    assert list(Names.of(LIST).select(mask)) == np.array(LIST, object)[mask].tolist()
