"""The model card of a published student: metadata of the Hugging Face Hub, and its record in Markdown."""

from collections.abc import Mapping
from typing import Any

import timm

from gendd.config import FIRST_FURTHER, Config
from gendd.evaluation.scores import score_title
from gendd.methods.base import Method
from gendd.methods.dense import DenseOptions
from gendd.networks.cost import as_flops, parameter_count
from gendd.networks.create import is_foreign, timm_can_build
from gendd.networks.timm_names import HUB, LOCAL, WEIGHTS
from gendd.own.config import Batches
from gendd.reporting.card_metadata import metadata_of
from gendd.reporting.escape import escaped
from gendd.reporting.finished import FinishedRun
from gendd.reporting.published import quoted_of_pair
from gendd.reporting.rows import output_title
from gendd.reporting.table import DASH
from gendd.runs.command import training_command
from gendd.runs.config_file import config_of
from gendd.runs.experiment import Experiment
from gendd.runs.folder import AVERAGED, RECORD, by_name, data_label
from gendd.runs.published import CURVES, WHOLE

PAPER = "[Generative Distribution Distillation](https://arxiv.org/abs/2507.14503)"
OUTPUTS = {
    "head": "the trained head, with the teacher's classifier if there are classes",
    "probe": "the linear classifier of the plain network",
    "linear": "a linear map of the plain network's feature to the teacher's",
    "classifier": "the network's classifier",
}
CITATION = """```bibtex
@article{cui2025generative,
  title={Generative Distribution Distillation},
  author={Cui, Jiequan and Zhu, Beier and Xu, Qingshan and Xu, Xiaogang and Chen, Pengguang and Qi, Xiaojuan and Yu, Bei
    and Zhang, Hanwang and Hong, Richang},
  journal={arXiv preprint arXiv:2507.14503},
  year={2025}
}
```"""


def card_of(
    experiment: Experiment,
    content: Mapping[str, Any],
    run: FinishedRun | None,
    license: str | None,
    repository: str | None,
) -> str:
    """Return the text of README.md.

    Args:
        content: of the published config.json.
        run: the complete run of these weights; None for other checkpoints.
        license: identifier of the license; None if unknown.
        repository: owner/name on the hub, for the commands that load the student.
    """
    source = content["gendd"]
    network, dataset = escaped(source["network"]), escaped(data_label(source[RECORD]["data"]))
    outputs = _outputs(run) if run else {}
    metadata = metadata_of(experiment, source, run, outputs, license)
    place = f"{HUB[0]}{repository}" if repository else f"{LOCAL}path/to/folder"
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {network} for {dataset}",
        f"{_summary(experiment, source)} {_state(source, run)}",
        _facts(experiment, source, run, license),
        *_results(run, outputs, source),
        f"## Load\n\n{_use(experiment, content, place)}",
        *_repeat(experiment, source),
        f"## Citation\n\n{_origin(source['method'])}\n\n{CITATION}",
    ]
    return "\n\n".join(sections) + "\n"


def _outputs(run: FinishedRun) -> dict[str, dict[str, float]]:
    """Return the final scores of the published weights by output."""
    averaged = run.config["eval_weights"] == "ema"
    last = run.result["last"].items()
    return {name.removeprefix(AVERAGED): scores for name, scores in last if name.startswith(AVERAGED) == averaged}


def _summary(experiment: Experiment, source: Mapping[str, Any]) -> str:
    method, teacher = source["method"], source["teacher"]
    by = f"{method} ({PAPER})" if method == "gendd" else escaped(method)
    names = [escaped(one["network"]) for one in (teacher, *source.get("more_teachers", [])) if one]
    distilled = f"distilled from {' and '.join(names)} by {by}" if names else f"trained by {by}"
    classes = f"{len(experiment.class_names)} classes" if experiment.class_names else "features, without classes"
    return f"A student {distilled}: {classes}."


def _origin(method: str) -> str:
    if method == "gendd":
        return f"The method is {PAPER} (Cui et al., 2025)."
    return f"The package `gendd`, which trained this student, implements {PAPER} (Cui et al., 2025)."


def _state(source: Mapping[str, Any], run: FinishedRun | None) -> str:
    epoch, epochs = source["epoch"], source["epochs"]
    if run:
        return f"The weights are those of the last epoch, {epoch} of {epochs}."
    if epoch is None:
        return "The weights come from a checkpoint file without a record of its training and accuracy."
    reached = f"epoch {epoch} of {epochs}"
    state = f"**Unfinished training**, {reached}." if epoch < epochs else f"The weights are those of {reached}."
    return f"{state} They have no final measurement."


def _facts(experiment: Experiment, source: Mapping[str, Any], run: FinishedRun | None, license: str | None) -> str:
    config, side = experiment.config, experiment.config.data.image_size
    operations = as_flops(experiment.student.flops)
    facts = {
        "data": f"{escaped(data_label(source[RECORD]['data']))}, {side} x {side} pixels",
        "labels": _labels(config.data.unlabeled, config.data.label_fraction),
        "method": escaped(config.method.describe()),
        **_dense(config.method),
        **_teachers(source),
        **_sampling(experiment),
        "epochs": run.epochs if run else source["epochs"] and f"{source['epoch']} of {source['epochs']}",
        "initial weights": _initial_weights(source, config),
        "plain network": f"{parameter_count(experiment.backbone) / 1e6:.2f} M parameters, {operations} per image",
        **({"weights": "their moving average"} if config.optimizer.eval_weights == "ema" else {}),
        **(
            {} if experiment.preprocessing.interpolation else {"preprocessing": "by the publisher's code, not recorded"}
        ),
        "license": escaped(license or "") or "unknown: ask the publisher before any use",
    }
    if source["epochs"] is None:
        # A checkpoint file without a configuration states its networks only.
        facts |= dict.fromkeys(("labels", "epochs", "initial weights"), "not recorded in the file")
        facts |= {"method": config.method.name, "SHA-256 of the file": f"`{source['sha256']}`"}
    if run:
        environment = run.environment["versions"]
        images = run.folder.data()["training images"]
        facts |= {
            "data": f"{facts['data']}; {images} images to train on",
            "seeds": f"n = 1 run, seed {run.seed}",
            "hardware": escaped(f"{run.result['processes']} x {run.result['hardware']}, {run.result['precision']}"),
            "versions": ", ".join(f"{name} {value}" for name, value in environment.items() if value),
        }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _initial_weights(source: Mapping[str, Any], config: Config) -> str:
    networks = source[RECORD]["networks"]
    own = f"those of {networks['student']}" if is_foreign(networks["student"]) else "random"
    start = escaped(networks["student_weights"] or own)
    stage1 = config.method.pretraining(config)
    return f"those of stage 1 (epochs: {stage1.optimizer.epochs}), which began with: {start}" if stage1 else start


def _dense(method: Method) -> dict[str, str]:
    words = method.describe_dense() if isinstance(method, DenseOptions) else ""
    return {"dense term": words} if words else {}


def _labels(unlabeled: bool, fraction: float) -> str:
    if unlabeled:
        return "not used"
    return "used" if fraction == 1 else f"used of {100 * fraction:g} % of the training images"


def _sampling(experiment: Experiment) -> dict[str, str]:
    head = experiment.task.head
    if head is None or not head.draws_features:
        return {}
    settings = experiment.config.method.sampling().items()
    return {"sampling of the head": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings)}


def _teachers(source: Mapping[str, Any]) -> dict[str, str]:
    if not source["teacher"]:
        return {"teacher": "none"}
    facts = _teacher(source["teacher"], "teacher")
    for number, teacher in enumerate(source.get("more_teachers", []), FIRST_FURTHER):
        facts |= _teacher(teacher, f"teacher {number}")
    return facts


def _teacher(teacher: Mapping[str, Any], title: str) -> dict[str, str]:
    top1 = f", top-1 {teacher['top1']:.2f} % on the same images" if "top1" in teacher else ""
    sums = {"file": teacher.get("sha256"), "tensors": teacher.get("tensors_sha256")}
    known = [f"SHA-256 of its {what} `{value}`" for what, value in sums.items() if value]
    weights = [escaped(teacher["weights"])] if "weights" in teacher else []
    license = escaped(teacher.get("license") or "unknown")
    return {
        title: f"{escaped(teacher['network'])}{top1}",
        f"{title}'s weights": "; ".join([*weights, *known]) or "not recorded",
        f"license of the {title}'s weights": license,
    }


def _results(
    run: FinishedRun | None, outputs: Mapping[str, Mapping[str, float]], source: Mapping[str, Any]
) -> list[str]:
    quoted = _quoted(source)
    if not run:
        return ["## Results", quoted] if quoted else []
    scores = list(dict.fromkeys(name for values in outputs.values() for name in values))
    titles = [f"{score_title(name, run.result['images'])} %" for name in scores]
    costs = ["parameters", "FLOPs per image", "images/s"]
    lines = [f"| {' | '.join(['output', *titles, *costs])} |", "|---" * (1 + len(titles) + len(costs)) + "|"]
    for output, values in outputs.items():
        figures = [f"{values[name]:.2f}" if name in values else DASH for name in scores]
        cells = [escaped(output_title(output)), *figures, *_cost(run.result["outputs"].get(output))]
        lines.append(f"| {' | '.join(cells)} |")
    explained = "; ".join(f"*{name}*: {OUTPUTS[name]}" for name in outputs if name in OUTPUTS)
    return [
        "## Results",
        "\n".join(lines),
        f"Last epoch, {run.evaluated_on}, n = 1 run. {explained}. A multiply-add counts as two operations.",
        *([quoted] if quoted else []),
        f"![Score and losses by epoch]({CURVES})",
    ]


def _cost(measured: Mapping[str, Any] | None) -> list[str]:
    if not measured:
        return [DASH] * 3
    rate = measured["images_per_second"]["median"]
    return [f"{measured['parameters'] / 1e6:.2f} M", as_flops(measured["flops"]), f"{rate:.0f}"]


def _quoted(source: Mapping[str, Any]) -> str:
    """Return the published figures of the same pair and method, as a sentence; empty without any."""
    settings = by_name(source[RECORD])
    figures = [
        f"{quoted.output} {quoted.top1:.2f} % ({f'{quoted.epochs} epochs, ' if quoted.epochs else ''}{quoted.source})"
        for quoted in quoted_of_pair(settings)
        if quoted.method == settings["method"]
    ]
    return f"Published top-1 of this pair, not measured here: {'; '.join(figures)}." if figures else ""


def _use(experiment: Experiment, content: Mapping[str, Any], place: str) -> str:
    family, network = experiment.family, experiment.config.networks.student
    whole = f"""With this project's package `gendd`, which reads `{WHOLE}`: {" and ".join(experiment.outputs)}.

```python
import gendd

model = gendd.load("{place}")
images = model.preprocessing(["photo.jpg"])
output = model.predict(images)  # {" or ".join(f'"{name}"' for name in experiment.outputs)}, the first by default
features = model.features(images)
```"""
    if not timm_can_build(network, experiment.backbone):
        own = f" `{network}` must be importable." if ":" in network else ""
        return f"timm cannot build this network by name.{own} {whole}"
    home = timm.models.model_entrypoint(content["architecture"]).__module__
    registers = f"import {family.name}.models  # registers the network\n" if home.startswith(family.name) else ""
    return f"""With timm: the plain network, from `{WEIGHTS[0]}`.

```python
{registers}import timm
import torch
from PIL import Image

model = timm.create_model("{place}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.no_grad():
    output = model(transform(Image.open("photo.jpg").convert("RGB"))[None])
```

{whole}"""


def _repeat(experiment: Experiment, source: Mapping[str, Any]) -> list[str]:
    if source["epochs"] is None:
        return []
    if isinstance(experiment.config.data, Batches):
        return ["## Repeat\n\nTrained from Python, by `gendd.distill` on batches of the publisher's own images."]
    content = {name: values for name, values in source[RECORD].items() if name != "classes"}
    command = training_command(experiment.family, config_of(content, experiment.family))
    shortened = "Only the last names are shown of paths outside the folder that it was published from."
    return [f"## Repeat\n\n```bash\n{command}\n```\n\n{shortened}"]
