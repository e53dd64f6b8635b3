"""Read a configuration from JSON: from `config.json` of a run, a checkpoint's record, or the file of --config."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from gendd.config import Config
from gendd.core.errors import InvalidSetting, InvalidValue, MissingFile, no_such, unknown_name
from gendd.core.ranges import field_names, fits, misfit
from gendd.family import Family
from gendd.methods import get_method


def read_config(path: Path, family: Family) -> Config:
    """Return the configuration in a file, as `config_of` does.

    Raises:
        InvalidValue: the file does not exist, or its content is not a configuration of this family.
    """
    content = read_content(path)
    try:
        return config_of(content, family)
    except InvalidSetting as error:
        raise InvalidValue(path, str(error)) from error


def config_of(content: Mapping[str, Any], family: Family) -> Config:
    """Return the configuration of a JSON object. Fields that it does not name have the family's defaults.

    Raises:
        InvalidSetting: another family, an unknown field, or a value of a wrong type.
    """
    if (name := content.get("family")) != family.name:
        raise InvalidValue(f"family {name}", f"the program belongs to {family.name}; name a file of {family.name}")
    parts = {section: values for section, values in content.items() if section != "family"}
    for section, values in parts.items():
        _check_name(section, "", field_names(Config))
        _check_type(values, dict, section)
    method = parts.get("method", {}).get("name")
    _check_type(method, str, "method.name")
    options = get_method(method)()
    if parts["method"].get("paper") is True and hasattr(options, "paper"):
        options = family.in_protocol(options)
    default = family.config(options)
    for section, values in parts.items():
        hints = get_type_hints(type(getattr(default, section)))
        known = {name: hints[name] for name in field_names(type(getattr(default, section)))}
        for name, value in values.items():
            if (section, name) != ("method", "name"):
                _check_name(name, f"{section}.", known)
                _check_type(value, known[name], f"{section}.{name}")
    return default.filled(parts)


def read_content(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        InvalidValue: the file does not exist, or does not contain a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise MissingFile(path, no_such(path)) from None
    except OSError as error:
        raise InvalidValue(path, f"{error.strerror}; name a file such as a run's config.json") from error
    except (ValueError, RecursionError) as error:
        raise InvalidValue(path, f"is not JSON ({error}); correct it") from error
    if not isinstance(content, dict):
        raise InvalidValue(path, "is not a JSON object; name a file such as a run's config.json")
    return content


def _check_name(name: str, section: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InvalidValue(f"{section}{name}", unknown_name(name, known).reason)


def _check_type(value: Any, hint: Any, name: str) -> None:
    if not fits(value, hint):
        raise InvalidValue(f"{name} {json.dumps(value)}", misfit(hint))
