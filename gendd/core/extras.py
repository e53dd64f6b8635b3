"""Packages that only some users need: the extras of pyproject.toml."""

import importlib
from types import ModuleType

from gendd.core.errors import InvalidValue


def imported_extra(package: str, extra: str, needed_by: str) -> ModuleType:
    """Import a package of an extra.

    Args:
        needed_by: value of the setting that needs the package, for the error.

    Raises:
        InvalidValue: the package cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InvalidValue(needed_by, f'needs the package {package} ({error}); pip install "gendd[{extra}]"') from error
