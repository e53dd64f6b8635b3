"""Formulas between dollar signs as MathML, which browsers draw by themselves: no script from elsewhere is needed."""

import html
import re

from latex2mathml.converter import convert

# What arithmatex makes of $...$.
FORMULA = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)


def on_page_content(content: str, **_) -> str:
    """What MkDocs calls for each page, with its HTML."""
    return FORMULA.sub(lambda formula: convert(html.unescape(formula[1])), content)
