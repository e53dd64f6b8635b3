"""The user's own code, by name: package.module:name, sought in the folder that the command was given in."""

import importlib
import os
import sys
import traceback
from textwrap import shorten

from gendd.core.errors import InvalidValue


def imported(name: str, kind: str) -> object:
    """Import the object that a name such as "package.module:name" refers to.

    Args:
        kind: what it should be, for the error: "function" or "Class".

    Raises:
        InvalidValue: there is no such module or name, or the module's code raises.
    """
    module, _, attribute = name.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InvalidValue(name, f"{error}; give package.module:{kind}, importable from {folder}") from error
    except Exception as error:  # The user's code may raise anything.
        raise raised(name, "cannot be imported", error) from error


def raised(name: str, what: str, error: Exception) -> InvalidValue:
    """Return the refusal of the user's code that raises, with the line where it does."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return InvalidValue(
        name,
        f"{what} ({type(error).__name__}: {brief(error)}, in {place.filename}, line {place.lineno}); mend it there",
    )


def brief(error: Exception) -> str:
    """Return an error's message, shortened, or its type if the message is empty; backticks are for settings."""
    return shorten(str(error).replace("`", "'") or type(error).__name__, 160)
