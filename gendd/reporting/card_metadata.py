"""The metadata of a model card, in the format of the Hugging Face Hub."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from gendd.evaluation.scores import score_title
from gendd.networks.create import timm_can_build
from gendd.reporting.finished import FinishedRun
from gendd.runs.experiment import Experiment
from gendd.runs.folder import RECORD, data_label

# Data sets with an identifier on the hub.
ON_HUB = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet-1k"}
HUB_DATA = "hfds/"
CLASSIFY, FEATURE = "image-classification", "image-feature-extraction"


def metadata_of(
    experiment: Experiment,
    source: Mapping[str, Any],
    run: FinishedRun | None,
    outputs: Mapping[str, Mapping[str, float]],
    license: str | None,
) -> ModelCardData:
    """Return the metadata.

    Args:
        source: the origin of the weights, from config.json.
        run: the complete run; None for other checkpoints.
        outputs: {output: scores} of the run.
        license: identifier of the license; None if unknown.
    """
    task = CLASSIFY if experiment.class_names else FEATURE
    dataset = source["dataset"]
    identifier = dataset.removeprefix(HUB_DATA) if dataset.startswith(HUB_DATA) else ON_HUB.get(dataset)
    results = [
        EvalResult(
            task_type=task,
            dataset_type=identifier or data_label(source[RECORD]["data"]),
            dataset_name=data_label(source[RECORD]["data"]),
            dataset_split=run.result["split"],
            metric_type="accuracy" if run.score == "top1" else run.score,
            metric_name=f"{score_title(run.score, run.result['images'])} of {output} (%)",
            metric_value=round(scores[run.score], 2),
        )
        for output, scores in outputs.items()
        if run and run.score in scores
    ]
    built_by_timm = timm_can_build(experiment.config.networks.student, experiment.backbone)
    return ModelCardData(
        license=license or "unknown",
        library_name="timm" if built_by_timm else "gendd",
        pipeline_tag=task,
        tags=[task, *(["timm"] if built_by_timm else []), "gendd", "knowledge-distillation"],
        datasets=[identifier] if identifier else None,
        model_name=source["network"] if results else None,
        eval_results=results or None,
    )
