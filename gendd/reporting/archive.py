"""Archives of runs: configurations, results and metrics in one compressed file, enough to repeat a report.

tar --create --xz --file runs.tar.xz $(find runs -name "*.json*")
"""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from gendd.core.errors import UserError
from gendd.core.tar import Member

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Greatest size of the unpacked files.
MOST_BYTES = 4 << 30


class Refused(Exception):
    """A member of an archive that is not unpacked. The message is the reason."""


# Errors from damaged files. RuntimeError and NotImplementedError: a zip with a password or a rare compression.
FAULTS = (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@contextmanager
def unpacked(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the run folders, with all complete runs of each archive, unpacked for the duration of the block.

    Raises:
        UserError: an archive is damaged, or does not hold a complete run.
    """
    with TemporaryDirectory() as place:
        folders: list[str] = []
        for number, path in enumerate(paths):
            archive = Path(path).is_file() or path.endswith(ENDINGS)
            folders += _runs_of(path, Path(place, str(number))) if archive else [path]
        yield tuple(folders)


def _runs_of(path: str, place: Path) -> list[str]:
    try:
        if zipfile.is_zipfile(path) or path.endswith(".zip"):
            _unpack_zip(path, place)
        else:
            _unpack_tar(path, place)
    except Refused as error:
        raise UserError(f"RUN {path}: {error}") from error
    except FAULTS as error:
        archives = f"an archive of run folders ({', '.join(ENDINGS)})"
        if not path.endswith(ENDINGS):
            raise UserError(f"RUN {path}: is not an archive; name run folders, or {archives}") from error
        # tarfile adds one line per compression that it tried.
        reason = str(error).partition(":\n")[0]
        raise UserError(
            f"RUN {path}: the archive is damaged or cannot be read ({reason}); create it again, or name run folders"
        ) from error
    folders = sorted(str(result.parent) for result in place.rglob("result.json"))
    if not folders:
        raise UserError(f"RUN {path}: the archive does not hold a complete run; name an archive of run folders")
    return folders


def _unpack_tar(path: str, place: Path) -> None:
    total = 0
    with tarfile.open(path, tarinfo=Member) as archive:
        for member in archive:
            total += member.size
            _check(member.name, member.isfile() or member.isdir(), total)
            archive.extract(member, place, filter="data")


def _unpack_zip(path: str, place: Path) -> None:
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            total += member.file_size
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check(member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), total)
            archive.extract(member, place)


def _check(name: str, is_plain: bool, total: int) -> None:
    """Raise Refused for a member that is a link or device or leads outside, or if the archive unpacks to too much."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise Refused(f"{name} leads outside; create the archive again with relative paths")
    if not is_plain:
        raise Refused(f"{name} is not a plain file; pack only the *.json* files of the runs, or follow links: tar -h")
    if total > MOST_BYTES:
        raise Refused(f"it unpacks to more than {MOST_BYTES >> 30} GiB; pack only the *.json* files of the runs")
