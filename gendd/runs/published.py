"""The published folder of a student.

config.json, model.safetensors   the plain student, in the format of timm's hf-hub and local-dir.
gendd.safetensors                all weights of the student, also of its head. Its metadata holds the configuration.
README.md, curves.png            the model card and its picture.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gendd.networks.timm_names import PLAIN, find, is_source
from gendd.runs.folder import RunFolder, origin

CONFIG, WHOLE, CARD, CURVES = "config.json", "gendd.safetensors", "README.md", "curves.png"
FILES = (PLAIN, CONFIG, WHOLE, CARD, CURVES)
# The folders of a path outside the working folder: from the start of a name, or after a prefix such as "local-dir:".
OUTSIDE = re.compile(r"(?:^|(?<=[:\s/])(?<!:/))(?:~[^/]*|\.\.)?/(?!/)(?:[^:]*/)?")


def located(name: str | Path) -> Path:
    """Return the file with all weights for "hf-hub:OWNER/NAME", "local-dir:FOLDER" or a published folder.

    Of a folder with a plain student alone, such as RUN/student, return its file; other paths as they are.

    Raises:
        MissingFile: the source does not have the file.
        PassingFault: the hub is busy or out of order.
    """
    if is_source(str(name)):
        return find(str(name), (WHOLE,))
    files = (Path(os.path.expanduser(name), file) for file in (WHOLE, PLAIN))
    return next(filter(Path.is_file, files), Path(name))


def teacher_records(path: Path) -> dict[str, Any]:
    """Return a record that contains the teachers' records, "teacher" and "more_teachers"; empty if it is unknown.

    It is environment.json of a run folder, also for its checkpoints, and the origin in other files.
    """
    run = RunFolder(path if path.is_dir() else path.parent.parent)
    if path in (run.path, run.last, run.best) and (run.path / "environment.json").is_file():
        return run.read("environment.json")
    return origin(path)


def teacher_origins(names: Sequence[str], records: Mapping[str, Any]) -> dict[str, Any]:
    """Return the records of a run's teachers: "teacher" (None without one) and, for several, "more_teachers".

    Args:
        names: of all teachers.
        records: environment.json of the run, or the origin in a published file. Records may be missing.
    """
    known = [records.get("teacher") or {}, *records.get("more_teachers", [])]
    padded: list[dict[str, Any]] = [*known, *({} for _ in names)]
    own = [{"network": name, **record} for name, record in zip(names, padded, strict=False)]
    return {"teacher": own[0] if own else None} | ({"more_teachers": own[1:]} if own[1:] else {})


def portable(value: Any) -> Any:
    """Return a JSON value without folders of this machine.

    Paths in the working folder become relative to it; others are reduced to their last names.
    """
    if isinstance(value, dict):
        return {name: portable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [portable(part) for part in value]
    if not isinstance(value, str):
        return value
    here = os.path.join(os.getcwd(), "")
    return OUTSIDE.sub("", value.rstrip("/").replace(here, "") if here != "/" else value)
