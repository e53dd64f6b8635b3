"""Valid ranges of numeric settings, as annotations of the configuration's fields."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

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
        return math.isfinite(value) and self.low <= value <= self.high and not (self.above and value == self.low)

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


def check_ranges(config: Any) -> None:
    """Check that a dataclass's numbers are finite and within the ranges of their fields.

    Raises:
        InvalidSetting: a number is not; the message names the field, the value and the range.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, limits = getattr(config, field.name), _range_in(hints[field.name])
        values = value if isinstance(value, tuple) else (value,)
        if limits and not all(given is None or limits.holds(given) for given in values):
            remedy = limits.remedy and f"; {limits.remedy}"
            raise InvalidSetting(field.name, value, f"must be {limits}{remedy}")


def _range_in(hint: Any) -> Range | None:
    """Return the range in a type such as Annotated[float, Range(0, 1)] | None."""
    found = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Range)), None)
    return found or next(filter(None, map(_range_in, get_args(hint))), None)
