"""The description of an exported student that its file holds: preprocessing, class names and origin."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import gendd
from gendd.export.output import Output
from gendd.runs.experiment import Experiment
from gendd.runs.published import portable, teacher_origins, teacher_records


def describe(run: Experiment, output: Output) -> dict[str, str]:
    """Return JSON texts by name: "preprocessing", "class_names" (empty for features) and "origin"."""
    config = run.config
    teachers = teacher_origins(config.networks.teacher_names, _teacher_records(run))
    made = {
        "output": output.name,
        "student": config.networks.student,
        **teachers,
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


def _teacher_records(run: Experiment) -> dict[str, Any]:
    """Return the teachers' weights and checksums, if the run's record or the published file holds them."""
    if run.path is None:
        return {}
    found = teacher_records(run.path)
    further = [_weights(record) for record in found.get("more_teachers", [])]
    return {"teacher": _weights(found.get("teacher") or {}), "more_teachers": further}


def _weights(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("weights", "license", "sha256", "tensors_sha256") if name in record}
