"""Generative Distribution Distillation (arXiv 2507.14503).

    import gendd
    run = gendd.load("runs/cifar100/resnet56_resnet20/gendd/0")    # or one of its checkpoint files
    features = run.model.sample(images)
    scores = gendd.evaluate("runs/cifar100/resnet56_resnet20/gendd/0")
    again = gendd.train(run.config.changed(seed=1))

The package imports each public name when it is first used.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gendd.core import torchvision_import

# This must run before any import of timm or torchvision.
torchvision_import.install()

# Public name -> module and name there.
_HOMES = {
    "Network": ("gendd.own.network", "Network"),
    "Config": ("gendd.config", "Config"),
    "SplitTokenHead": ("gendd.diffusion.head", "SplitTokenHead"),
    "Student": ("gendd.distillation.student", "Student"),
    "contract": ("gendd.distillation.targets", "contract"),
    "distill": ("gendd.programs.distill", "distill"),
    "evaluate": ("gendd.programs.evaluate", "evaluate"),
    "load": ("gendd.runs.experiment", "load"),
    "recipe": ("gendd.runs.recipes", "recipe"),
    "train": ("gendd.programs.train", "train_config"),
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("gendd")
        except PackageNotFoundError:  # A checkout that is not installed.
            return "0+unknown"
    if name in _HOMES:
        module, attribute = _HOMES[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'gendd' has no attribute '{name}'")
