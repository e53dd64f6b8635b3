"""Every line with which a program refuses what it was given, from the source: docs/errors.md.

    python docs/make/errors.py

A message is what a `UserError`, `Refusal` or `PassingFault` is raised with; its values stand as <what they are>.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
HEAD = """# Every error line

What cannot work is one line on the terminal, `error: ` and the flag with its value, then what is wrong, and how to mend
it; exit code 2, nothing that was saved is lost. Exit code 1: a fault of disk, network or a data worker, which passing
time or another machine may mend. Made by `python docs/make/errors.py` from the source; words in <> stand for values.
[Troubleshooting](troubleshooting.md) tells what to do where a line does not suffice.
"""
KINDS = {"UserError", "Refusal", "PassingFault", "Absent", "Missing", "refusal"}
PACKAGES = {
    "gendd/programs": "Programs",
    "gendd/methods": "Methods",
    "gendd/reporting": "Reports",
    "gendd_cifar": "Small images",
    "gendd_imagenet": "Photographs",
    "gendd": "What both trees share",
}


def messages() -> dict[str, set[str]]:
    """Messages by the package that they come from."""
    found: dict[str, set[str]] = {title: set() for title in PACKAGES.values()}
    for file in sorted(ROOT.glob("gendd*/**/*.py")):
        place = str(file.parent.relative_to(ROOT))
        package = next(title for folder, title in PACKAGES.items() if place.startswith(folder))
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in KINDS and node.args:
                text = " ".join(_text(node.args[0]).split())
                if len(re.sub(r"<[^<>]*>", "", text)) > 15:
                    found[package].add(text)
    return found


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        words = re.findall(r"[A-Za-z_]+", ast.unparse(node.value).split("(")[-1])
        return f"<{words[-1].strip('_').replace('_', ' ') if words else '...'}>"
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "<...>"


def page() -> str:
    parts = [HEAD]
    for title, texts in messages().items():
        lines = [f"- `{text.replace('`', '')}`" for text in sorted(texts, key=lambda text: text.lstrip("-<").lower())]
        parts.append(f"## {title}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
