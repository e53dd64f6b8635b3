"""A finished run, from its folder alone."""

from dataclasses import dataclass
from pathlib import Path

import torch
from timm.utils import unwrap_model
from torch import nn

from gendd.checkpoint import load_weights, read_weights
from gendd.config import TrainConfig
from gendd.errors import naming
from gendd.programs.build import Built, build
from gendd.programs.tree import Tree
from gendd.runs import RunFolder, saved_config


@dataclass(frozen=True)
class OpenedRun:
    """A run's configuration, its networks and task, and the model that it trained."""

    settings: TrainConfig
    built: Built
    model: nn.Module


def open_run(
    tree: Tree, path: str, device: torch.device, trained: bool = True, taught: bool = False, **changed
) -> OpenedRun:
    """A finished run, from its folder.

    Args:
        trained: load the run's weights; otherwise they are random, for measurements of speed and size.
        taught: load the teacher's weights too; what a student needs of it lies among the student's own.
        changed: values of the configuration in place of the run's own.

    Raises:
        UserError: no run folder, or a damaged one.
    """
    own = {"student_weights": None, "after": None} | ({} if taught else {"teacher_weights": None})
    settings = tree.train_config.of(**saved_config(Path(path), tree.train_config).flat() | own | changed)
    with naming("run"):
        tensors = read_weights(path) if trained else None
    classes = len(RunFolder(Path(path)).read("data.json")["classes"])
    built = build(tree, settings, classes, device, missing=None if taught else [], trained=tensors)
    model = unwrap_model(built.task.eval().get_eval_model())
    if tensors:
        with naming("run"):
            load_weights(model, tensors, path)
    return OpenedRun(settings, built, model)
