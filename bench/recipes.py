"""Compare the values of every training script with the published ones: docs/results/recipes.md.

    python bench/recipes.py

This file lists the published values by flag name. A script's values come from the commands that it would start, parsed
by the programs' parser. The optimizer's groups show which parameters decay.
"""

import importlib
import os
import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace

import torch
from published_recipes import CIFAR, PHOTOGRAPHS, PUBLISHED, WITHOUT_RECIPE
from torch import nn

from gendd.config import Config
from gendd.core.command import COMMANDS
from gendd.core.ranges import field_names
from gendd.family import Family
from gendd.methods.base import Task, TaskContext
from gendd.methods.dense import DenseOptions
from gendd.methods.options import PretrainOptions
from gendd.networks.create import create_network
from gendd.networks.features import feature_width
from gendd.programs.configuration import configuration
from gendd.training.optim import parameter_groups

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "recipes.md"
CLASSES = {"cifar100": 100, "digits": 10}

# Intended differences, with reasons.
SAMPLING = {"sampler", "sampling_steps", "num_samples"}
DRAWS = {"repeats", "draw_scheme"}
WHY = {
    "precision": "bf16 where the hardware multiplies it faster. `--precision fp32` is the published one.",
    "sampler, sampling steps, num samples": "the few-step sampler is more accurate and costs a hundredth "
    "([measured](samplers/README.md)). `--paper` sets the published one.",
    "repeats, draw scheme": "the pairs without a published recipe use 8 antithetic draws, whose gradient varies no "
    "more than that of 30 independent ones ([measured](../speed.md)). `--paper` sets the published ones.",
}
IMAGES = {
    *("image_size", "crop_padding", "crop_scale", "interpolation", "hflip", "color_jitter", "auto_augment"),
    *("mixup", "cutmix", "label_smoothing"),
}
# Options of stage 1, which has a separate row.
STAGE1 = field_names(PretrainOptions)
# The dense term is not in the release.
OURS = field_names(DenseOptions)
RARE = ("sync_bn", "steps_per_epoch", "unlabeled", "head_lr")
HEAD_OF_PAGE = """# Values of the scripts, and the published ones

`python bench/recipes.py` makes this page from each script's flags and, for weight decay, from the
optimizer's groups. In the rows of single scripts, a single value is also the published one. (-)
marks values that a published recipe does not state. `tests/test_recipes.py` checks the scripts
against this page. Intended differences from the published values:
"""
ELSEWHERE = """Differences that no flag shows:

- Learning rates change at every step. In the release they change once per epoch, at its first step.
- CIFAR's stage 2 reaches the flag's rate at the end of the warm-up. The release stays at 49/50 of
  it until epoch 150.
- The last partial batch of an epoch is dropped: 16 of 50,000 images of CIFAR-100, 143 of 1,281,167
  of ImageNet. The release trains on it for all data sets. Each epoch has another order, so no image
  is dropped permanently.
- The release evaluates the best checkpoint, chosen on the test images, and publishes its figures. A
  run here reports its last epoch, and names its best one. `sh/evaluate.sh RUN --best` evaluates the
  best. ImageNet-LT's students learn from the teacher's best epoch in both.
- ResNets for ImageNet have timm's initial values: the last batch norm of each block starts at
  weight 0. In the release it starts at 1. A WRN's classifier (bias 0) and MobileNetV1's
  convolutions (torch's values) start as in the release.
- Feature mixup draws one share m per batch, for any number of processes, and mixes neighbors, whose
  order is random. The release draws one m and a permutation per process.
- On CC3M the linear probe learns from the teacher's probabilities, and its gradient is stopped at
  the probe. The release trains no probe there.
"""


def permitted(command: str) -> set[str]:
    """Return the fields in which a script may differ from the published values."""
    without_recipe = any(f"_{pair.replace(' ', '_')}_gendd.sh" in command for pair in WITHOUT_RECIPE)
    return {"precision", *SAMPLING, *(DRAWS if without_recipe else ())}


# The scripts' values.


def programs(command: str, folder: Path, **variables: object) -> list[tuple[str, list[str]]]:
    """Return the Python programs, such as "gendd_cifar train", and arguments that a shell command would start.

    Args:
        folder: folder for stand-ins of Python, torchrun and the commands, which only record their arguments.
    """
    binaries, record = folder / "stub" / "bin", folder / "record"
    binaries.mkdir(parents=True, exist_ok=True)
    python = binaries / "python"
    python.write_text('#!/usr/bin/env bash\n[ "$1" != -m ] || { printf "%q " "${@:2}" && echo; } >>"$RECORD"\n')
    torchrun = binaries / "torchrun"
    torchrun.write_text('#!/usr/bin/env bash\nuntil [ "$1" = -m ]; do shift; done\nexec python "$@"\n')
    commands = [binaries / name for name in COMMANDS]
    for command_file in commands:
        command_file.write_text(f'#!/usr/bin/env bash\nexec python -m {command_file.name.replace("-", "_")} "$@"\n')
    for stand_in in (python, torchrun, *commands):
        stand_in.chmod(0o755)
    record.write_text("")
    path = f"{binaries}:{os.environ['PATH']}"
    environment = {**os.environ, "VENV": binaries.parent, "PATH": path, "RECORD": record, **variables}
    environment = {name: str(value) for name, value in environment.items()}
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    started = [shlex.split(line) for line in record.read_text().splitlines()]
    started = [words[1:] if words[0] == "gendd.launch" else words for words in started]
    started = [[words[0], *words[2:]] if words[1:2] == ["launch"] else words for words in started]
    return [
        (f"{module} {arguments[0]}", arguments[1:]) if re.fullmatch(r"gendd(_\w+)?", module) else (module, arguments)
        for module, *arguments in started
    ]


def family_of(module: str) -> Family:
    """Return the family of a program, such as gendd_cifar train; gendd_cifar for one that reads it from the run."""
    package = module.split()[0]
    return importlib.import_module(f"{'gendd_cifar' if package == 'gendd' else package}.family").FAMILY


@dataclass(frozen=True)
class Training:
    """One training that a command starts.

    Args:
        published: published values by field of the configuration, and of "decayed".
        stage: number among the runs that the program trains: stage 1, if there is one, then the run itself.
    """

    command: str
    module: str
    arguments: list[str]
    published: dict
    stage: int = 0

    @cached_property
    def config(self) -> Config:
        return self.with_flags()

    def with_flags(self, *flags: str) -> Config:
        return stages(family_of(self.module), [*self.arguments, *flags])[self.stage]

    @cached_property
    def decays(self) -> dict[str, bool]:
        """Return whether each trained parameter decays, by name."""
        task = untrained_task(family_of(self.module), self.config)
        module = task.trainable_module
        groups = parameter_groups(module, self.config.optimizer, task.head)
        decays = {id(p): group["weight_decay"] > 0 for group in groups for p in group["params"]}
        return {name: decays[id(p)] for name, p in module.named_parameters() if p.requires_grad}

    @property
    def decayed(self) -> str:
        """Describe in words which parameters decay."""
        head = {name for name in self.decays if name.startswith("head.")}
        if {name for name, decays in self.decays.items() if not decays} == head:
            return "all but the head" if head else "all"
        return "weight matrices but the head's" if head else "weight matrices"

    def values(self, config: Config) -> dict[str, object]:
        """Return the values of a configuration, in the page's order."""
        method, data = config.method, field_names(type(config.data))
        flat = {name: value for part in vars(config).values() for name, value in vars(part).items()}
        flat["method"] = method.name
        names = ["teacher"] if config.networks.teacher else []
        names += ["student", "method", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule"]
        names += ["momentum"] if config.optimizer.optimizer == "sgd" else ["beta1", "beta2_start", "beta2_end"]
        names += ["milestones"] if config.optimizer.schedule == "step" else ["min_lr"]
        names += ["warmup_epochs", *(name for name in data if name in IMAGES), "precision"]
        options = [name for name in field_names(type(method)) if name not in (*method.evaluation_only, *STAGE1, *OURS)]
        names += options
        names += ["pretrain_best"] if method.pretraining(config) else []
        names += ["sampler", "sampling_steps", "num_samples", "guidance"] if method.name == "gendd" else []
        # Settings of few trainings.
        names += [name for name in RARE if flat.get(name) or name in self.published]
        return {**{name: flat[name] for name in names}, "decayed": self.decayed}

    def differing(self, *flags: str) -> dict[str, tuple]:
        """Return the fields that differ with these flags, with the script's and the published value."""
        ours = self.values(self.with_flags(*flags))
        return {name: (ours[name], value) for name, value in self.published.items() if ours[name] != value}


def stages(family: Family, arguments: list[str]) -> list[Config]:
    """Return the configurations of the runs that the train program makes from its arguments, in order."""
    config = configuration(family, arguments)
    first = config.method.pretraining(config)
    return [first, config] if first else [config]


def untrained_task(family: Family, config: Config) -> Task:
    """Build the task of a training, with random weights, a narrow head and only the classifier of the teacher."""
    classes = CLASSES.get(config.data.dataset, 1000)
    # Only the networks' shapes are needed.
    with torch.device("meta"):
        student = create_network(config.networks.student, family.zoo, classes, config.data.image_size)
        if config.networks.teacher:
            teacher = create_network(config.networks.teacher, family.zoo, classes, config.data.image_size)
    frozen = None
    if config.networks.teacher:
        classifier = nn.Linear(feature_width(teacher), classes)
        model = SimpleNamespace(get_classifier=lambda: classifier)
        frozen = SimpleNamespace(classifier=classifier, width=classifier.in_features, model=model)
    if hasattr(config.method, "width"):
        config = config.changed(width=8)
    return config.method.build(TaskContext(config, student, frozen, {}, torch.device("cpu")))


@cache
def trainings() -> dict[str, list[Training]]:
    """Return all trainings by section of the page."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            section: [training for command in commands for training in trainings_of(command, commands[command], folder)]
            for section, commands in PUBLISHED.items()
        }


def trainings_of(command: str, published: list[dict], folder: str) -> list[Training]:
    started = [program for program in programs(command, Path(folder)) if program[0].endswith(" train")]
    runs = [
        (module, arguments, stage)
        for module, arguments in started
        for stage in range(len(stages(family_of(module), arguments)))
    ]
    return [
        Training(command, module, arguments, values, stage)
        for (module, arguments, stage), values in zip(runs, published, strict=True)
    ]


# The page.


def page() -> str:
    parts = [HEAD_OF_PAGE, *(f"- {names}: {reason}" for names, reason in WHY.items()), "", ELSEWHERE]
    for section, members in trainings().items():
        parts.append(f"## {section}\n")
        first = [training for training in members if training.config.method.name == "pretrain"]
        if section in (CIFAR, PHOTOGRAPHS):
            parts += ["### Stage 1\n", *table(first), "### Stage 2\n"]
            members = [training for training in members if training not in first]
        parts += table(members)
    return "\n".join(parts).rstrip() + "\n"


def table(members: list[Training]) -> list[str]:
    """Return the lines of two tables: values common to all trainings, and one row per training with the others."""
    rows = [{name: pair(training, name) for name in training.values(training.config)} for training in members]
    names = list(dict.fromkeys(name for row in rows for name in row))
    alike = [name for name in names if all(row.get(name) == rows[0].get(name) for row in rows)]
    apart = [name for name in names if name not in alike]
    lines = ["| same for all | here | published |", "|---|---|---|"]
    lines += [f"| {words(name)} | {rows[0][name][0]} | {rows[0][name][1] or '-'} |" for name in alike]
    titles = ["script", "tensors that decay, and not", *map(words, apart)]
    lines += ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for training, row in zip(members, rows, strict=True):
        decaying = sum(training.decays.values())
        own = [f"`{training.command.replace('bash sh/', '')}`", f"{decaying}, {len(training.decays) - decaying}"]
        own += [beside(*row[name], training.published) if name in row else "" for name in apart]
        lines.append(f"| {' | '.join(own)} |")
    return [*lines, ""]


def pair(training: Training, name: str) -> tuple[str, str]:
    """Return the script's value and the published one, "" if it is not stated."""
    published = training.published
    return shown(training.values(training.config)[name]), shown(published[name]) if name in published else ""


def beside(ours: str, published: str, recipe: dict) -> str:
    """Return the script's value, with the published one if they differ and a recipe is published."""
    if ours == published or not recipe:
        return ours
    return f"{ours} (published: {published})" if published else f"{ours} (-)"


def shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        return f"{value:g}"
    return str(value) if value else "none"


def words(name: str) -> str:
    return name.replace("_", " ")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
