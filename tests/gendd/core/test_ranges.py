"""Valid values of settings: the types of fields, and the ranges of numbers."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from gendd.core.errors import InvalidSetting
from gendd.core.ranges import Count, Positive, Range, check_values, fits, misfit


@dataclass(frozen=True)
class Part:
    name: str = "a"


@dataclass(frozen=True)
class Settings:
    rate: Positive = 0.1
    count: Count | None = None
    kind: Literal["x", "y"] = "x"
    on: bool = False
    size: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()


@pytest.mark.parametrize(
    "values",
    [{}, {"rate": 1}, {"rate": np.float64(2)}, {"count": 3}, {"kind": "y"}, {"on": True}, {"size": [1, 2]},
     {"size": (3,)}, {"parts": (Part(), Part("b"))}],
)  # fmt: skip
def test_values_of_their_types_are_accepted(values):
    check_values(Settings(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": "0.1"}, "`rate` '0.1': is not of type float; correct it"),
        ({"rate": None}, "`rate` None: is not of type float; correct it"),
        ({"rate": True}, "`rate` True: is not of type float; correct it"),
        ({"count": 1.5}, "`count` 1.5: is not of type "),
        ({"rate": 10**400}, "must be positive"),
        ({"kind": np.array(["x", "y"])}, "`kind` array(['x', 'y'], dtype='<U1'): choose one of x, y"),
        ({"kind": "z"}, "`kind` 'z': choose one of x, y"),
        ({"on": "no"}, "`on` 'no': is not of type bool; correct it"),
        ({"size": 3}, "`size` 3: is not of type tuple"),
        ({"size": ["3"]}, "`size` ['3']: is not of type tuple"),
        ({"parts": (Part(3),)}, "is not of type tuple"),
        ({"parts": (Range(0),)}, "is not of type tuple"),
        ({"rate": 0.0}, "`rate` 0.0: must be positive"),
        ({"rate": float("nan")}, "`rate` nan: must be positive"),
        ({"rate": float("inf")}, "`rate` inf: must be positive"),
        ({"count": 0}, "`count` 0: must be at least 1"),
    ],
)
def test_values_of_other_types_or_ranges_are_refused(values, message):
    with pytest.raises(InvalidSetting) as refused:
        check_values(replace(Settings(), **values))
    assert message in str(refused.value)


def test_json_content_fits_as_python_values_do():
    assert fits({"name": "b"}, Part) and fits([{"name": "b"}], tuple[Part, ...])
    assert not fits({"other": "b"}, Part) and not fits(Path("a"), str)
    assert fits("a", Any) and fits("a", Iterable[int])
    assert misfit(Literal[1, 2]) == "choose one of 1, 2"
