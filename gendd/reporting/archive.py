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

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
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
    with tarfile.open(path) as archive:
        # The filter refuses files and links outside the folder, and devices.
        archive.extractall(place, filter="data")
        # tarfile treats a truncated file or a damaged header as the end. A complete archive ends with zeros.
        end = archive.offset
        archive.fileobj.seek(end)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither a file nor the end at byte {end}")


def _unpack_zip(path: str, place: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
            if name.is_absolute() or ".." in name.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise zipfile.BadZipFile(f"{name} leads outside, or is not a plain file")
        archive.extractall(place)
