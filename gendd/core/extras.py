"""Packages that only some users need: the extras of pyproject.toml."""

import importlib
from types import ModuleType

from gendd.core.errors import InvalidValue


def imported_extra(package: str, extra: str, needed_by: str, alone: bool = False) -> ModuleType:
    """Import a package of an extra.

    Args:
        needed_by: value of the setting that needs the package, for the error.
        alone: the package works without the others of its extra.

    Raises:
        InvalidValue: the package cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        remedy = package if alone else f'"gendd[{extra}]"'
        raise InvalidValue(needed_by, f"needs the package {package} ({error}); pip install {remedy}") from error
