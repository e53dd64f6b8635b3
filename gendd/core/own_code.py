"""Import of the user's code by package.module:name, with the current folder in the search path."""

import importlib
import os
import sys
import traceback
from textwrap import shorten

from gendd.core.errors import InvalidValue


def imported(name: str, kind: str) -> object:
    """Import the object with a name such as "package.module:name".

    Args:
        kind: "function" or "Class", for the error message.

    Raises:
        InvalidValue: the module or the name does not exist, or the module's code raises.
    """
    module, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), attribute)
    except InvalidValue:
        raise
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InvalidValue(name, f"{error}; give package.module:{kind}, importable from {folder}") from error
    except Exception as error:  # The user's code may raise anything.
        raise raised(name, "cannot be imported", error) from error


def raised(name: str, what: str, error: Exception) -> InvalidValue:
    """Return the error for an exception in the user's code, with its file and line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InvalidValue(
        name,
        f"{what} ({type(error).__name__}: {brief(error)}, in {place.filename}, line {place.lineno}); fix it there",
    )


def brief(error: Exception) -> str:
    """Return an error's message, shortened, or its type if it is empty; replace backticks, which mark settings."""
    return shorten(str(error).replace("`", "'") or type(error).__name__, 160)
