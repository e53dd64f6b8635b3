"""The JSON file with the figures of a program."""

import json
from pathlib import Path

from gendd.config import Config
from gendd.core.files import check_writable, write_whole
from gendd.runs.folder import data_name

ELSEWHERE = "name another place for the figures: --json FILE"


def figures_file(given: str | None, run: Path, program: str, *differing: str) -> Path:
    """Return the given file, or a file in the run folder whose name contains the settings that differ from the default.

    Raises:
        UserError: the file cannot be written.
    """
    file = Path(given or run / f"{'-'.join([program, *differing])}.json")
    check_writable(file, ELSEWHERE)
    return file


def other_data(own: Config, used: Config, dataset: str, split: str) -> list[str]:
    """Return the names of a data set and its split if its images are not the run's; else an empty list."""
    same = all(getattr(own.data, name) == getattr(used.data, name) for name in ("dataset", *own.data.choices))
    return [] if same else [data_name(dataset), split]


def write_figures(file: Path, content: dict) -> None:
    """Write the figures and print where they are."""
    text = json.dumps(content, indent=2) + "\n"
    remedy = f"the figures are printed above; {ELSEWHERE}"
    write_whole(file, lambda stream: stream.write(text.encode()), shared=True, remedy=remedy)
    print(f"figures in {file.absolute()}")
