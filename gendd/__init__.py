"""Generative Distribution Distillation (arXiv 2507.14503).

    import gendd
    run = gendd.load("runs/cifar100/resnet56_resnet20/gendd/0")    # or one of its checkpoint files
    features = run.model.sample(images)

Names are imported when they are first used.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gendd.core import torchvision_import

# Before anything imports timm or torchvision.
torchvision_import.install()

_HOMES = {
    "Config": "gendd.config",
    "SplitTokenHead": "gendd.diffusion.head",
    "Student": "gendd.distill.student",
    "contract": "gendd.distill.targets",
    "load": "gendd.runs.experiment",
}
__all__ = ["Config", "SplitTokenHead", "Student", "__version__", "contract", "load"]  # noqa: F822  (by __getattr__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("gendd")
        except PackageNotFoundError:  # A checkout that is not installed.
            return "0+unknown"
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gendd' has no attribute '{name}'")
