"""Makes `import torchvision` (and so timm) work beside a CPU-only torch.

PyPI's torchvision wheel links against CUDA libraries. Where those are absent its compiled operators do not load,
and its Python side then stops at "operator torchvision::nms does not exist". Nothing here calls these operators,
so declaring their schemas is enough. Where the compiled operators load, nothing is declared.
"""

import sys

import torch


def _declare_missing_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    # Kept referenced: the operators vanish with the library object.
    _library = _declare_missing_operators()
    import torchvision  # noqa: F401
