"""Text for a terminal. Names from files may contain characters that control it."""

from typing import Any, TextIO


def printable(text: str) -> str:
    """Return text with escapes, such as \\x1b, in place of characters that a terminal does not show."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else letter.encode("unicode_escape").decode()
        for letter in text
    )


class Printable:
    """A stream that writes only printable text."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
