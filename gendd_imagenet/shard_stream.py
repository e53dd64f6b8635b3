"""Read the bytes of a shard from a file, a command or a URL, with retries after temporary faults."""

import io
import re
import subprocess
from typing import Any
from urllib.parse import urlsplit

from gendd.core.errors import InvalidValue
from gendd.core.extras import imported_extra
from gendd.core.retry import BUSY, retried

COMMAND = "pipe:"
# A shell's exit codes if the command does not exist or must not run.
NO_COMMAND = (126, 127)
BLOCK = 2**21
HTTP = ("http", "https")
# HTTP status codes: a part of the file; a missing login or right, which servers also answer for missing files.
PARTIAL, FORBIDDEN = 206, (401, 403)
# Schemes of URLs, and the package of fsspec's file system with its extra where the base installation lacks it.
SCHEMES: dict[str, tuple[str, str] | None] = {
    **dict.fromkeys((*HTTP, "hf")),
    "s3": ("s3fs", "s3"),
    **dict.fromkeys(("gs", "gcs"), ("gcsfs", "gcs")),
    **dict.fromkeys(("az", "abfs", "abfss"), ("adlfs", "azure")),
}
# Query parameters that grant access, as in presigned URLs.
SECRETS = re.compile(r"[?&](sig|[\w.-]*(signature|token|key|secret|password|credential|auth))=", re.IGNORECASE)
QUERY = re.compile(r"\?[^\s'\"<>]+")


def is_url(shard: str) -> bool:
    return "://" in shard and not shard.startswith(COMMAND)


def check_url(url: str) -> None:
    """Check a URL's scheme, and that the URL does not contain a password or a signature. Nothing is requested.

    Raises:
        InvalidValue: the URL cannot be read, or contains a secret, which the message leaves out.
    """
    scheme, _, rest = url.partition("://")
    place, _, path = rest.partition("/")
    if "@" in place:
        shown = f"{scheme}://{place.rpartition('@')[2]}/{path.partition('?')[0]}"
        raise InvalidValue(
            shown,
            "a user or password in a URL would be stored with the run; put it into ~/.netrc and leave it out here",
        )
    if SECRETS.search(url):
        raise InvalidValue(
            url.partition("?")[0],
            "a signature or token in a URL would be stored with the run; name the shards by s3://, gs:// or az://, "
            "whose libraries read credentials from the environment",
        )
    if scheme not in SCHEMES:
        raise InvalidValue(
            url,
            f"URLs of {scheme}:// are not supported, but {', '.join(SCHEMES)}; name a command that writes each "
            f'shard to its standard output, such as "pipe:rclone cat {url}"',
        )


def file_system(url: str) -> Any:
    """Return fsspec's file system of a URL. Credentials come from where its library looks for them.

    Raises:
        InvalidValue: the scheme is not supported, or its package is not installed.
    """
    import fsspec

    check_url(url)
    scheme = urlsplit(url).scheme
    if extra := SCHEMES[scheme]:
        imported_extra(*extra, needed_by=url)
    options = {}
    if scheme in HTTP:
        import aiohttp

        # A shard is read for longer than aiohttp's five minutes. Proxies and ~/.netrc are used, as by curl. The bytes
        # are those of the file, at any encoding.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True, "auto_decompress": False}}
    return fsspec.filesystem(scheme, **options)


class ShardStream(io.RawIOBase):
    """A shard's bytes. After a fault it opens the shard again and continues after the last byte read."""

    def __init__(self, shard: str):
        super().__init__()
        self.shard, self.position = shard, 0
        self.source: Any = None

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` of the next bytes; none at the end.

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

    def close(self) -> None:
        if self.source is not None:
            self.source.close()
            self.source = None
        super().close()

    def _read(self, size: int) -> bytes:
        try:
            if self.source is None:
                self.source, begin = _opened(self.shard, self.position)
                self._skip(self.position - begin)
            content = self.source.read(size)
            # A cloud's library may return less than it was asked for, which would shift all that follows.
            total = getattr(self.source, "size", None)
            if total is not None and len(content) < (wanted := min(size, total - self.position)):
                raise ConnectionError(f"sent {len(content)} of {wanted} bytes")
            return content
        except Exception as error:
            source, self.source = self.source, None
            if source is not None:
                source.close()
            if isinstance(error, OSError | InvalidValue):
                raise
            raise _as_os_error(error) from error

    def _skip(self, left: int) -> None:
        while left:
            skipped = len(self.source.read(min(left, BLOCK)))
            if not skipped:
                raise OSError(f"opened again, it ends {left} bytes before the last byte read")
            left -= skipped


def _opened(shard: str, position: int) -> tuple[Any, int]:
    """Open a shard and go to a position, or as near before it as possible. Return the source and where it is."""
    if shard.startswith(COMMAND):
        return Command(shard.removeprefix(COMMAND)), 0
    if is_url(shard) and urlsplit(shard).scheme in HTTP:
        return _requested(shard, position)
    if is_url(shard):
        # The next block is fetched while one is read.
        options = {"block_size": BLOCK, "cache_type": "background", "cache_options": {"maxblocks": 2}}
        source = file_system(shard).open(shard, "rb", **options)
    else:
        source = io.FileIO(shard)
    # Seeking beyond the end raises no error.
    return source, source.seek(min(position, source.seek(0, io.SEEK_END)))


def _requested(url: str, position: int) -> tuple[Any, int]:
    """Request a file over HTTP from a position on, as one stream."""
    # A request that begins at the end of the file would be refused: it begins one byte earlier.
    begin = max(0, position - 1)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={begin}-"} if begin else {})
    # With any size, fsspec does not ask for it, and with blocks of 0 it reads a stream.
    source = file_system(url).open(url, "rb", block_size=0, size=1, headers=headers)
    if url.startswith("https:") and source.r.url.scheme != "https":
        raise OSError("redirected to http://, where anyone on the way can change it; name its final address")
    sent = re.match(r"bytes (\d+)-", source.r.headers.get("Content-Range", ""))
    if source.r.status == PARTIAL and not sent:
        raise OSError("the server sent a part of it, without saying which; name a copy on another server")
    return source, int(sent[1]) if sent else 0


class Command:
    """The standard output of a shell command that the user gave."""

    def __init__(self, command: str):
        self.process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE)

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer only at the end. A failed command is an error, not the end of the shard."""
        assert self.process.stdout
        content = self.process.stdout.read(size)
        if len(content) < size and (status := self.process.wait()):
            fault = OSError if status in NO_COMMAND else ConnectionError
            raise fault(f"its command ended with exit code {status}")
        return content

    def close(self) -> None:
        """End the command; closing its output alone would leave it waiting, or a zombie."""
        assert self.process.stdout
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait()


def _as_os_error(error: Exception) -> OSError:
    """Return a lasting or passing error in place of one of aiohttp, botocore, gcsfs or azure."""
    found = (getattr(error, name, None) for name in ("status", "code", "status_code"))
    status = next((value for value in found if isinstance(value, int)), None)
    name = type(error).__name__
    lasting = status not in BUSY if status else re.search("Credential|Auth|Parameter|Redirect|URL", name)
    kind = PermissionError if status in FORBIDDEN else OSError if lasting else ConnectionError
    # A server may redirect to a presigned URL.
    return kind(f"{name}: {QUERY.sub('?...', str(error))}")
