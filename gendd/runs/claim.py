"""The record of the settings that a folder of computed files is made from."""

import json
from collections.abc import Sequence
from pathlib import Path

from gendd.core.errors import InvalidSetting
from gendd.core.files import write_whole
from gendd.core.retry import retried
from gendd.runs.lock import sole_writer

# Seconds that a process waits for another one that writes the record of the same new folder.
CLAIMING = 60.0
REMEDY = "name another folder, or delete this one"
SHA256_LETTERS = 64


def claim(record: Path, settings: dict, setting: str, contents: str, added: Sequence[str] = ()) -> None:
    """Record the settings that a folder is made from, or compare them with those on record.

    Args:
        settings: JSON values.
        setting: the setting that names the folder.
        contents: pattern of the folder's files, none of which may precede the record.
        added: settings that are not in the records of earlier versions, and are then not compared.

    Raises:
        InvalidSetting: the folder was made from other settings; the message lists the differences.
    """
    mine = json.loads(json.dumps(settings))
    if not record.exists():
        with sole_writer(record.parent, setting, patience=CLAIMING):
            _write(record, mine, setting, contents)
    theirs = read_record(record, setting)
    mine = {name: value for name, value in mine.items() if name in theirs or name not in added}
    differing = [
        f"{name.replace('_', ' ')} {_short(theirs.get(name))} there, {_short(mine.get(name))} here"
        for name in sorted({*mine, *theirs})
        if theirs.get(name) != mine.get(name)
    ]
    if differing:
        reason = f"was made from other settings: {'; '.join(differing)}; {REMEDY}"
        raise InvalidSetting(setting, record.parent, reason)


def read_record(record: Path, setting: str) -> dict:
    """Return the settings on record.

    Raises:
        InvalidSetting: the record is missing or damaged.
    """
    try:
        content = json.loads(retried(record.read_text, record))
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content
    except (OSError, ValueError) as error:
        raise InvalidSetting(setting, record.parent, f"its {record.name} is damaged; {REMEDY}") from error


def _write(record: Path, settings: dict, setting: str, contents: str) -> None:
    if record.exists():  # Another process has written it meanwhile.
        return
    if next(record.parent.glob(contents), None):
        reason = f"holds features, but its {record.name} is missing; {REMEDY}"
        raise InvalidSetting(setting, record.parent, reason)
    content = (json.dumps(settings, indent=2) + "\n").encode()
    write_whole(record, lambda file: file.write(content))


def _short(value) -> str:
    """Format a value for an error message; shorten a checksum."""
    return value[:12] if isinstance(value, str) and len(value) == SHA256_LETTERS else str(value)
