"""The description of an exported student that its file holds: preprocessing, class names and origin."""

import json
from dataclasses import asdict
from typing import Any

import gendd
from gendd.core.errors import UserError
from gendd.export.output import Output
from gendd.runs.experiment import Experiment
from gendd.runs.folder import RunFolder, origin
from gendd.runs.published import portable


def describe(run: Experiment, output: Output) -> dict[str, str]:
    """Return JSON texts by name: "preprocessing", "class_names" (empty for features) and "origin"."""
    config = run.config
    teacher = {"network": config.networks.teacher, **_teacher_record(run)} if config.networks.teacher else None
    made = {
        "output": output.name,
        "student": config.networks.student,
        "teacher": teacher,
        "method": config.method.name,
        "sampling": config.method.sampling() if output.name == "head" else {},
        "dataset": config.data.dataset,
        "family": run.family.name,
        "epoch": run.epoch,
        "gendd": gendd.__version__,
    }
    names = run.class_names if output.is_logits else ()
    content = {"preprocessing": asdict(run.preprocessing), "class_names": names, "origin": portable(made)}
    return {name: json.dumps(value) for name, value in content.items()}


def _teacher_record(run: Experiment) -> dict[str, Any]:
    """Return the teacher's weights and checksums, if the run's record or the published file holds them."""
    if run.path is None:
        return {}
    # A checkpoint is in the folder `checkpoints` of its run.
    folder = run.path if run.path.is_dir() else run.path.parent.parent
    try:
        record = RunFolder(folder).read("environment.json").get("teacher", {})
    except UserError:
        record = origin(run.path).get("teacher") or {}
    return {name: record[name] for name in ("weights", "license", "sha256", "tensors_sha256") if name in record}
