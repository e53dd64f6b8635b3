"""Check the line that a program prints for an error."""

import contextlib
import re
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from gendd.core.errors import UserError, with_flags


@contextlib.contextmanager
def refuses(match: str = "", kind: type[Exception] = UserError) -> Iterator[SimpleNamespace]:
    """Expect an error whose line, with settings printed as flags, matches. Yield an object with the line as `value`."""
    printed = SimpleNamespace(value="")
    with pytest.raises(kind) as caught:
        yield printed
    printed.value = with_flags(str(caught.value))
    assert re.search(match, printed.value), f"{match!r} is not in {printed.value!r}"
