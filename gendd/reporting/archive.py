"""Runs in one compressed file: their configurations, results and metrics, from which a report is drawn again.

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
# Of damaged files; RuntimeError and NotImplementedError: a zip with a password, or packed in a rare way.
FAULTS = (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


@contextmanager
def unpacked(paths: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield the run folders, and all complete ones of each archive. The unpacked ones last as long as the block.

    Raises:
        UserError: an archive is damaged, or holds no complete run.
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
        archives = f"an archive of some ({', '.join(ENDINGS)})"
        if not path.endswith(ENDINGS):
            raise UserError(f"RUN {path}: is not an archive; name run folders, or {archives}") from error
        # tarfile adds a line for each kind of compression that it tried.
        reason = str(error).partition(":\n")[0]
        raise UserError(
            f"RUN {path}: cannot be read, or is damaged ({reason}); make the archive again, or name run folders"
        ) from error
    folders = sorted(str(result.parent) for result in place.rglob("result.json"))
    if not folders:
        raise UserError(f"RUN {path}: holds no complete run; name an archive of run folders")
    return folders


def _unpack_tar(path: str, place: Path) -> None:
    with tarfile.open(path) as archive:
        # No file outside the place, no link to there, no device.
        archive.extractall(place, filter="data")
        # tarfile takes a cut file, or a damaged header, for the end. A whole archive ends with zeros.
        end = archive.offset
        archive.fileobj.seek(end)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no file and no end at byte {end}")


def _unpack_zip(path: str, place: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
            if name.is_absolute() or ".." in name.parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise zipfile.BadZipFile(f"{name} leads outside, or is not a plain file")
        archive.extractall(place)
