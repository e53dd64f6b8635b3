"""Read the bytes of a shard from a file, a command or a URL, with retries after temporary faults."""

import http.client
import io
import urllib.error
import urllib.request
from typing import Any

import webdataset
from webdataset.gopen import Pipe

from gendd.core.retry import BUSY, retried

# A shell's exit codes if the command does not exist or must not run.
NO_COMMAND = (126, 127)
# curl's exit code for any HTTP error. It already retried while the server was busy.
HTTP_ERROR = 22
BLOCK = 2**20


class ShardStream(io.RawIOBase):
    """A shard's bytes. After a fault it opens the shard again and continues after the last byte read."""

    def __init__(self, shard: str):
        super().__init__()
        self.shard, self.source, self.position = shard, None, 0

    def read(self, size: int = -1, /) -> bytes:
        """Return the next `size` bytes, fewer only at the end.

        Raises:
            OSError: the shard cannot be opened or read, for a lasting reason.
            PassingFault: temporary faults persisted through all retries.
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
                raise OSError(f"opened again, it ends {left} bytes before the last byte read")
            left -= skipped

    def _take(self, source, size: int) -> bytes:
        """Read bytes of a file or a command. A failed command is an error, not the end of the shard."""
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
    """Request the URL once more, since curl does not report the HTTP status.

    Raises:
        OSError: the status is a lasting one, such as 404 or 403.
    """
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except urllib.error.HTTPError as error:
        if error.code not in BUSY:
            raise OSError(str(error)) from error
    except (OSError, http.client.HTTPException):
        return
