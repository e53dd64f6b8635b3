"""The bytes of a shard, from a file, a command or an address, whatever passing faults there are on the way."""

import http.client
import io
import urllib.error
import urllib.request
from typing import Any

import webdataset
from webdataset.gopen import Pipe

from gendd.core.retry import BUSY, retried

# Exit codes of a shell that finds no such command, or may not run it.
NO_COMMAND = (126, 127)
# curl's, at any answer that is an error; those of a busy server it has waited for itself.
HTTP_ERROR = 22
BLOCK = 2**20


class ShardStream(io.RawIOBase):
    """Opens a shard again where a fault broke it off, and goes on behind the last byte read."""

    def __init__(self, shard: str):
        super().__init__()
        self.shard, self.source, self.position = shard, None, 0

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, fewer only at the end.

        Raises:
            OSError: it cannot be opened or read at all.
            PassingFault: nor can it after some tries.
        """
        content = retried(lambda: self._read(size), self.shard)
        self.position += len(content)
        return content

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _read(self, size: int) -> bytes:
        source, self.source = self.source, None
        if source is None:
            source = webdataset.gopen(self.shard)
            self._skip(source)
        content = self._take(source, size)
        self.source = source
        return content

    def _skip(self, source) -> None:
        left = self.position
        while left:
            skipped = len(self._take(source, min(left, BLOCK)))
            if not skipped:
                raise OSError(f"opened again, it ends {left} bytes before the place where it broke off")
            left -= skipped

    def _take(self, source, size: int) -> bytes:
        """Bytes of a file, or of a command, whose end must not be taken for the shard's if it failed."""
        if not isinstance(source, Pipe):
            return source.read(size)
        content = source.stream.read(size)
        if len(content) < size and (status := source.proc.wait()) not in source.ignore_status:
            if status == HTTP_ERROR and self.shard.startswith("http"):
                _refuse_lasting_answer(self.shard)
            fault = OSError if status in NO_COMMAND else ConnectionError
            raise fault(f"its command ended with exit code {status}")
        return content


def _refuse_lasting_answer(url: str) -> None:
    """Ask once more, since curl does not tell which answer it got.

    Raises:
        OSError: the server says that nothing is there, or that it is closed to the user.
    """
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except urllib.error.HTTPError as error:
        if error.code not in BUSY:
            raise OSError(str(error)) from error
    except (OSError, http.client.HTTPException):
        return
