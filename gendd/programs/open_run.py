"""A finished run, from its folder alone."""

from dataclasses import dataclass
from pathlib import Path

import torch
from timm.utils import unwrap_model
from torch import nn

from gendd.checkpoint import load_weights, read, reported_weights, weights_file, weights_in
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
    # After which the weights were saved; None without them.
    epoch: int | None = None


def open_run(
    tree: Tree,
    path: str,
    device: torch.device,
    trained: bool = True,
    taught: bool = False,
    judged_on: str | None = None,
    **changed,
) -> OpenedRun:
    """A finished run, from its folder.

    Args:
        trained: load the run's weights; otherwise they are random, for measurements of speed and size.
        taught: load the teacher's weights too; what a student needs of it lies among the student's own.
        judged_on: another data set, whole, in place of the images that the run chose.
        changed: values of the configuration in place of the run's own.

    Raises:
        UserError: no run folder, or a damaged one.
    """
    own = {"student_weights": None, "after": None} | ({} if taught else {"teacher_weights": None})
    settings = saved_config(Path(path), tree.train_config)
    if judged_on:
        settings = settings.judged_on(judged_on)
    settings = tree.train_config.of(**settings.flat() | own | changed)
    with naming("run"):
        content = read(weights_file(path)) if trained else {}
        tensors = weights_in(content, path, reported_weights(content)) if trained else None
    classes = len(RunFolder(Path(path)).read("data.json")["classes"])
    built = build(tree, settings, classes, device, missing=None if taught else [], trained=tensors)
    model = unwrap_model(built.task.eval().get_eval_model())
    if tensors:
        with naming("run"):
            load_weights(model, tensors, path)
    return OpenedRun(settings, built, model, content.get("epoch"))
