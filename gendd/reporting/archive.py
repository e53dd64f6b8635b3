"""Runs in one compressed file: their configurations, results and metrics, from which a report is drawn again.

tar --create --xz --file runs.tar.xz $(find runs -name "*.json*")
"""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gendd.errors import UserError

ENDINGS = (".tar.xz", ".tar.gz", ".tgz", ".tar")


@contextmanager
def unpacked(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Run folders as they are, and of each archive all complete ones in it, for as long as the block lasts.

    Raises:
        UserError: an archive that cannot be read, or that holds no complete run.
    """
    with TemporaryDirectory() as place:
        folders: list[str] = []
        for number, path in enumerate(paths):
            folders += _of_archive(path, Path(place, str(number))) if path.endswith(ENDINGS) else [path]
        yield tuple(folders)


def _of_archive(path: str, place: Path) -> list[str]:
    try:
        with tarfile.open(path) as archive:
            # No file outside the place, no link, no device.
            archive.extractall(place, filter="data")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise UserError(f"RUN {path}: cannot be read ({error}); name an archive of run folders") from error
    folders = sorted(str(result.parent) for result in place.rglob("result.json"))
    if not folders:
        raise UserError(f"RUN {path}: holds no complete run; name an archive of run folders")
    return folders
