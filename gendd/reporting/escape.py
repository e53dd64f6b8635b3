"""Names from files, in Markdown and HTML."""

import re

from gendd.core.terminal import printable

# Characters that mark up Markdown, formulas or HTML. A _ within a word does not.
MARKUP = re.compile(r"[\\`*\[\]<&|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def escaped(text: str) -> str:
    """Return text on one line that shows as it is in Markdown, also in a table, and contains no HTML."""
    return MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(" ".join(text.split())))
