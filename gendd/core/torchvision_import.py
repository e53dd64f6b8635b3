"""Make `import torchvision`, which timm needs, work with a CPU-only torch.

PyPI's torchvision wheel links against CUDA libraries. Without these libraries its compiled operators do not load, and
the import fails with "operator torchvision::nms does not exist". This project calls none of these operators, so it is
enough to declare their schemas. If the compiled operators load, nothing is declared.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class Declaration(MetaPathFinder):
    """An import hook that declares the operators when torchvision is first imported. It finds no modules itself."""

    # Keep a reference: without it, the operators disappear.
    library: Any = None

    def find_spec(self, fullname, path, target=None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()


def _declare_missing_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.origin:
        return
    import torch

    try:
        torch.ops.load_library(next(Path(spec.origin).parent.glob("_C.*")))
    except OSError:
        Declaration.library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            Declaration.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except StopIteration:  # A torchvision without compiled operators.
        return


def install() -> None:
    """Install the import hook, unless torchvision is already imported."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, Declaration) for finder in sys.meta_path):
        sys.meta_path.insert(0, Declaration())
