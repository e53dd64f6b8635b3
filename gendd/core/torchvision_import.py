"""Makes `import torchvision` (and so timm) work with a CPU-only torch.

PyPI's torchvision wheel links against CUDA libraries. Where those are absent its compiled operators do not load,
and its Python side then stops at "operator torchvision::nms does not exist". Nothing here calls these operators,
so declaring their schemas is enough. Where the compiled operators load, nothing is declared.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any


class Declaration(MetaPathFinder):
    """Declares the operators when torchvision is first imported, and finds no module itself."""

    # Kept: the operators vanish with it.
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
    """Have torchvision's first import declare what its compiled operators lack."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, Declaration) for finder in sys.meta_path):
        sys.meta_path.insert(0, Declaration())
