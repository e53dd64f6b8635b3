"""The JSON file of a program's figures."""

import json
from pathlib import Path

from gendd.config import Config
from gendd.core.files import check_writable, write_whole
from gendd.runs.folder import data_name

ELSEWHERE = "name another place for the figures: --json FILE"


def figures_file(given: str | None, run: Path, program: str, *differing: str) -> Path:
    """Return the file that is given, or one in the run folder, whose name says what differs from the usual figures.

    Raises:
        UserError: it cannot be written.
    """
    file = Path(given or run / f"{'-'.join([program, *differing])}.json")
    check_writable(file, ELSEWHERE)
    return file


def other_data(own: Config, used: Config, dataset: str, split: str) -> list[str]:
    """Return the names of a data set and its split, if they are other images than the run's own."""
    same = all(getattr(own.data, name) == getattr(used.data, name) for name in ("dataset", *own.data.choices))
    return [] if same else [data_name(dataset), split]


def write_figures(file: Path, content: dict) -> None:
    """Write the figures and print where they are."""
    text = json.dumps(content, indent=2) + "\n"
    remedy = f"the figures are printed above; {ELSEWHERE}"
    write_whole(file, lambda stream: stream.write(text.encode()), shared=True, remedy=remedy)
    print(f"figures in {file.absolute()}")
