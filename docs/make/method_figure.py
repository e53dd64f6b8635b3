"""Draw the method, docs/method.svg: from an image's two features to the loss and, at inference, to a class.

python docs/make/method_figure.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

FILE = Path(__file__).parents[1] / "method.svg"
FROZEN, TRAINED, PLAIN, RESULT = "#dbe7f3", "#fde3c8", "#f2f2f2", "#dff0dd"
HEIGHT = 0.62


def box(axes: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y - HEIGHT / 2), width, HEIGHT, style, fc=color, ec="#555555", lw=1))
    axes.text(x + width / 2, y, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="#333333", lw=1))
    axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12, text, ha="center", va="bottom", fontsize=9)


def draw(axes: Axes) -> None:
    axes.text(0, 4.75, "Training", fontsize=11, weight="bold")
    box(axes, 0, 3.2, 0.9, "image", PLAIN)
    box(axes, 1.5, 4.0, 1.5, "teacher\n(frozen)", FROZEN)
    box(axes, 1.5, 2.4, 1.5, "student's\nbackbone", TRAINED)
    arrow(axes, (0.9, 3.3), (1.5, 3.9))
    arrow(axes, (0.9, 3.1), (1.5, 2.5))

    box(axes, 3.7, 4.0, 2.2, "contraction to the\nclass center $c_y$", PLAIN)
    arrow(axes, (3.0, 4.0), (3.7, 4.0), "$f$")
    axes.text(4.8, 4.42, "$f' = (1-\\lambda)\\,f + \\lambda\\,c_y$", ha="center", fontsize=9)
    box(axes, 6.6, 4.0, 1.7, "split into\nM tokens", PLAIN)
    arrow(axes, (5.9, 4.0), (6.6, 4.0), "$f'$")
    box(axes, 9.0, 4.0, 1.4, "add noise", PLAIN)
    arrow(axes, (8.3, 4.0), (9.0, 4.0), "$x_0$")
    arrow(axes, (9.7, 3.69), (9.7, 2.71))
    axes.text(9.8, 3.2, "$x_t,\\; t$", va="center", fontsize=9)

    box(axes, 3.7, 2.4, 1.2, "LayerNorm", TRAINED)
    arrow(axes, (3.0, 2.4), (3.7, 2.4), "$h$")
    box(axes, 8.8, 2.4, 1.8, "denoiser\n(one for all tokens)", TRAINED)
    arrow(axes, (4.9, 2.4), (8.8, 2.4), "condition $z$")
    box(axes, 11.3, 3.2, 1.5, "squared\nerror", RESULT)
    arrow(axes, (10.6, 2.5), (11.3, 3.0))
    axes.text(10.85, 2.45, "$\\hat x_0$", va="top", fontsize=9)
    arrow(axes, (10.4, 4.0), (11.3, 3.4))
    axes.text(10.95, 3.85, "$x_0$", va="bottom", fontsize=9)

    axes.text(0, 1.45, "Inference: one step of the denoiser, and the teacher's classifier", fontsize=11, weight="bold")
    box(axes, 0, 0.4, 0.9, "image", PLAIN)
    box(axes, 1.5, 0.4, 1.5, "student's\nbackbone", TRAINED)
    arrow(axes, (0.9, 0.4), (1.5, 0.4))
    box(axes, 3.7, 0.4, 2.2, "head: LayerNorm\nand denoiser", TRAINED)
    arrow(axes, (3.0, 0.4), (3.7, 0.4), "$h$")
    box(axes, 6.9, 0.4, 1.9, "teacher's\nclassifier", FROZEN)
    arrow(axes, (5.9, 0.4), (6.9, 0.4), "feature")
    box(axes, 9.7, 0.4, 1.1, "class", RESULT)
    arrow(axes, (8.8, 0.4), (9.7, 0.4))
    box(axes, 3.7, -0.6, 2.2, "linear probe", TRAINED)
    arrow(axes, (2.6, 0.09), (3.7, -0.6))
    arrow(axes, (5.9, -0.6), (9.7, 0.2))
    axes.text(7.4, -0.75, "without the head", fontsize=9)
    for place, (color, text) in enumerate(((TRAINED, "trained"), (FROZEN, "frozen"))):
        box(axes, 11.3, 0.4 - 0.8 * place, 1.2, text, color)
    axes.set(xlim=(-0.1, 13.0), ylim=(-1.1, 5.0))
    axes.set_aspect("equal")
    axes.axis("off")


def main() -> None:
    # Make the file reproducible.
    plt.rcParams.update({"svg.hashsalt": "gendd", "mathtext.fontset": "stix", "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(figsize=(11, 5.2))
    draw(axes)
    figure.savefig(FILE, bbox_inches="tight", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
