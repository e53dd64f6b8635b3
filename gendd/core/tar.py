"""Tar archives of unknown origin."""

import tarfile
from typing import Any

# tarfile reads these headers into memory, at any size they state: long names and pax attributes.
EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
LONGEST_HEADER = 2**20


class Member(tarfile.TarInfo):
    """A member of an archive that must have an end mark and short headers.

    Plain tarfile treats any unreadable header as the end.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Any:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut short or damaged: {error}") from error
        if member.type in EXTENDED and member.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header states {member.size} bytes, more than {LONGEST_HEADER}")
        return member
