"""Valid values of settings: the types of the configuration's fields, and ranges of numbers as their annotations."""

import dataclasses
import math
import sys
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gendd.core.errors import InvalidSetting


@dataclass(frozen=True)
class Range:
    """A range of finite numbers from `low` to `high`.

    Args:
        above: whether to exclude `low` itself.
        remedy: text that the error message ends with.
    """

    low: float
    high: float = math.inf
    above: bool = False
    remedy: str = ""

    def holds(self, value: float) -> bool:
        # Not math.isfinite, which fails for integers that no float can hold.
        finite = abs(value) <= sys.float_info.max
        return finite and self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if self.above:
            return "positive" if math.isinf(self.high) else f"above {self.low} and at most {self.high}"
        if math.isfinite(self.high):
            return f"from {self.low} to {self.high}"
        return {1.0: "at least 1", 0.0: "0 or more"}.get(self.low, "a number")


Share = Annotated[float, Range(0, 1)]
Decay = Annotated[float, Range(0, 0.99999)]
Amount = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Number = Annotated[float, Range(-math.inf)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
PixelCount = Annotated[int, Range(1, 10_000)]
Count = Annotated[int, Range(1)]
CountOrNone = Annotated[int, Range(0)]


def field_names(kind: type) -> tuple[str, ...]:
    """Return the names of a dataclass's fields."""
    return tuple(field.name for field in dataclasses.fields(kind))


def field_values(config: Any, kind: type) -> dict[str, Any]:
    """Return a configuration's values for the fields of `kind`, one of its base classes."""
    return {name: getattr(config, name) for name in field_names(kind)}


def check_values(config: Any) -> None:
    """Check that a dataclass's values have the types of their fields, and numbers are finite and within the ranges.

    Raises:
        InvalidSetting: a value is not; the message names the field, the value, and its type or range.
    """
    kinds, hints = get_type_hints(type(config)), get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), _range_in(hints[field.name])
        if not fits(value, kinds[field.name]):
            raise InvalidSetting(field.name, repr(value), misfit(kinds[field.name]))
        values = value if isinstance(value, (list, tuple)) else (value,)
        if limits and not all(given is None or limits.holds(given) for given in values):
            remedy = limits.remedy and f"; {limits.remedy}"
            raise InvalidSetting(field.name, value, f"must be {limits}{remedy}")


def fits(value: Any, hint: Any) -> bool:
    """Return True if a value, from Python or JSON, has the type of a field.

    A list is accepted for a tuple, an integer for a float, and a dictionary for a dataclass.
    """
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, choice) for choice in choices)
    if origin is Literal:
        # An array would be compared with each choice element by element.
        return isinstance(value, tuple(map(type, choices))) and value in choices
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        kinds = [choices[0]] * len(value) if choices[-1] is Ellipsis else choices
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    # Generic types and others that only an own method may have.
    if origin or hint is Any or not isinstance(hint, type):
        return True
    if dataclasses.is_dataclass(hint):
        hints, parts = get_type_hints(hint), vars(value) if isinstance(value, hint) else value
        known = isinstance(parts, dict) and parts.keys() <= hints.keys()
        return known and all(fits(part, hints[name]) for name, part in parts.items())
    # In Python True is an integer; here it is not a number.
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def misfit(hint: Any) -> str:
    """Return why a value that does not fit the type of a field is wrong, and what to do."""
    if get_origin(hint) is Literal:
        return f"choose one of {', '.join(map(str, get_args(hint)))}"
    name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return f"is not of type {name}; correct it"


def _range_in(hint: Any) -> Range | None:
    """Return the range in a type such as Annotated[float, Range(0, 1)] | None."""
    found = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Range)), None)
    return found or next(filter(None, map(_range_in, get_args(hint))), None)
