"""Convert formulas between dollar signs to MathML, which browsers render without a script."""

import html
import re

from latex2mathml.converter import convert

# The HTML that arithmatex generates for $...$.
FORMULA = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_page_content(content: str, **_) -> str:
    """Convert a page's HTML; MkDocs calls this for each page."""
    return FORMULA.sub(lambda formula: convert(html.unescape(formula[1])), content)
