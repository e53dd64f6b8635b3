"""The comparison of an exported file with the original, as a Markdown table."""

from collections.abc import Mapping
from typing import Any


def table(figures: Mapping[str, Any]) -> str:
    """Return a table with one row for the original and one for the file, from the figures of an export."""
    rows = [_row(name, figures) for name in figures["speed"]]
    lines = [["", *rows[0]], ["---"] * (len(rows[0]) + 1)]
    lines += [[name, *row.values()] for name, row in zip(figures["speed"], rows, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _row(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
    """Return the cells of the original or of the file, by the titles of their columns."""
    found, accuracy, speed = figures["agreement"], figures.get("accuracy"), figures["speed"][name]
    if found["top1"] is None:
        agreement, value = "cosine", f"{found['cosine']:.6f}"
    else:
        agreement, value = "same top-1", f"{found['top1']:.1f} %"
    exported = name != "original"
    cells = {
        "MB": f"{figures['bytes'][name] / 1e6:.2f}",
        "greatest difference": f"{found['difference']:.2g}" if exported else "",
        f"{agreement} on {found['images']} images": value if exported else "",
    }
    if accuracy:
        cells[f"top-1 on {accuracy['images']} images"] = f"{accuracy[name]:.2f} %"
    return cells | {
        "ms for 1 image: median (min–max)": _spread(speed["latency_ms"]),
        "images/s at batch 64: median (min–max)": _spread(speed["images_per_second"]),
    }


def _spread(values: Mapping[str, float]) -> str:
    return "{median:.4g} ({min:.4g}–{max:.4g})".format(**values)
