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
from torch import nn

from gendd.config import Config
from gendd.core.ranges import field_names
from gendd.family import Family
from gendd.methods.base import Task, TaskContext
from gendd.methods.options import PretrainOptions
from gendd.networks.create import create_network, feature_width
from gendd.programs.configuration import configuration
from gendd.training.optim import parameter_groups

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "recipes.md"
CLASSES = {"cifar100": 100, "digits": 10}

# The published values. Values that are missing here are not published.
FP32 = {"precision": "fp32"}
ADAMW = {"optimizer": "adamw", "beta1": 0.9, "beta2_end": 0.999, **FP32}
HEAD = {"token_dim": 64, "width": 1024, "depth": 3, "trunk_depth": 0, "condition_dropout": 0.2}
OBJECTIVE = {"prediction": "noise", "noise_path": "cosine", "timestep_density": "uniform", "loss_weighting": "none"}
GENDD = {**ADAMW, **HEAD, **OBJECTIVE, "method": "gendd", "draw_scheme": "independent", "decayed": "all but the head"}
GENDD |= {"sampler": "ancestral", "num_samples": 5, "guidance": 2.0}
PRETRAIN = {**ADAMW, "method": "pretrain", "beta2_start": 0.999, "schedule": "cosine", "decayed": "all"}
SGD = {"optimizer": "sgd", "momentum": 0.9, "decayed": "all", **FP32}

SMALL = {"image_size": 32, "crop_padding": 4, "hflip": 0.5, "batch_size": 64}
STEPS_DOWN = {"epochs": 240, "schedule": "step", "milestones": (150, 180, 210)}
CIFAR_1 = {**PRETRAIN, **SMALL, "epochs": 50, "lr": 3e-3, "weight_decay": 5e-2, "min_lr": 0}
CIFAR_2 = {**GENDD, **SMALL, **STEPS_DOWN, "lr": 1e-3, "weight_decay": 5e-2, "warmup_epochs": 50, "beta2_start": 0.95}
CIFAR_2 |= {"repeats": 30, "sampling_steps": 100, "feature_mixup": 1, "pretrain_best": False}
CIFAR_SGD = {**SGD, **SMALL, **STEPS_DOWN, "lr": 0.05, "weight_decay": 5e-4}
# Students with this learning rate in every method, except in stage 1 of GenDD.
SLOWER = {"MobileNetV2", "ShuffleV1", "ShuffleV2"}
SLOW = {"lr": 0.01}
CONTRACTIONS = {
    "resnet110 resnet32": 0.9,
    "resnet56 resnet20": 0.9,
    "vgg13 resnet20": 0.9,
    "resnet32x4 resnet8x4": 0.7,
    "wrn_40_2 resnet8x4": 0.7,
    "vgg13 vgg8": 0.7,
    "wrn_40_2 wrn_16_2": 0.8,
    "wrn_40_2 wrn_40_1": 0.8,
}
WITHOUT_RECIPE = (
    *("resnet32x4 ShuffleV1", "resnet32x4 ShuffleV2", "wrn_40_2 ShuffleV1", "vgg13 MobileNetV2"),
    *("resnet32x4 vgg8", "resnet32x4 wrn_16_2"),
)
KD, DKD = {"temperature": 4, "label_share": 0.1}, {"temperature": 4, "alpha": 1, "distill_warmup_epochs": 20}
IKL = {"temperature": 4, "alpha": 1}
CIFAR_METHODS = {
    "kd resnet56 resnet20": KD,
    "dkd resnet32x4 resnet8x4": {**DKD, "beta": 8},
    "dkd resnet56 resnet20": DKD,
    "ikl resnet110 resnet32": {**IKL, "beta": 12},
    "ikl resnet56 resnet20": {**IKL, "beta": 4},
    "ikl resnet32x4 resnet8x4": {**IKL, "beta": 8},
    "ikl resnet32x4 ShuffleV1": {**IKL, "beta": 8},
    "ikl resnet32x4 ShuffleV2": {**IKL, "alpha": 3, "beta": 12},
    "ikl ResNet50 MobileNetV2": {**IKL, "beta": 12},
}

LARGE = {"image_size": 224, "hflip": 0.5, "sync_bn": False}
NOT_MIXED = {"color_jitter": 0, "auto_augment": "", "mixup": 0, "cutmix": 0, "label_smoothing": 0}
A2 = {"color_jitter": 0.4, "auto_augment": "rand-m7-n2-mstd0.5", "mixup": 0.1, "cutmix": 1, "label_smoothing": 0}
A1 = {**A2, "mixup": 0.2, "label_smoothing": 0.1}
COSINE = {"schedule": "cosine", "min_lr": 1e-6, "lr": 2e-3}
IMAGENET_1 = {**PRETRAIN, **LARGE, **COSINE, "epochs": 20, "batch_size": 512, "warmup_epochs": 0}
IMAGENET_1 |= {"crop_scale": (0.08, 1)}
LARGE_2 = {**GENDD, **LARGE, **COSINE, "beta2_start": 0.96, "repeats": 10, "sampling_steps": 64, "crop_scale": (0.6, 1)}
IMAGENET_2 = {**LARGE_2, "batch_size": 512, "contraction": 0.9, "pretrain_best": False}
LT = {**LARGE_2, **NOT_MIXED, "batch_size": 256, "epochs": 100, "warmup_epochs": 20, "weight_decay": 2e-1}
LT |= {"teacher": "resnext101_32x4d", "contraction": 0, "feature_mixup": 1}
CC3M = {**LARGE, **NOT_MIXED, "epochs": 100, "steps_per_epoch": 5500, "batch_size": 512, "crop_scale": (0.6, 1)}
CC3M |= {"unlabeled": True}
CC3M_2 = {**LARGE_2, **CC3M, "warmup_epochs": 20, "weight_decay": 2e-2, "contraction": 0, "feature_mixup": 1}


def of_pair(teacher: str, student: str, epochs: int, warmup: int, decay: float, mixup: int, augmentation: dict) -> list:
    """Return both stages of a pair on ImageNet."""
    shared = {"teacher": teacher, "student": student, "weight_decay": decay, **augmentation}
    second = {**IMAGENET_2, **shared, "epochs": epochs, "warmup_epochs": warmup, "feature_mixup": mixup}
    return [{**IMAGENET_1, **shared}, second | ({} if augmentation is NOT_MIXED else {"interpolation": "bilinear"})]


LARGE_SCRIPTS = {
    "imagenet_resnet34_resnet18_gendd": of_pair("resnet34", "resnet18", 100, 10, 2e-2, 1, NOT_MIXED),
    "imagenet_resnet50_mobilenetv1_gendd": of_pair("resnet50", "mobilenetv1", 100, 20, 2e-2, 1, NOT_MIXED),
    "imagenet_beitv2b_resnet50_a2_gendd": of_pair("beitv2_base", "resnet50", 300, 20, 2e-2, 0, A2),
    "imagenet_beitv2b_resnet50_a1_gendd": of_pair("beitv2_base", "resnet50", 600, 20, 1e-2, 0, A1),
    "imagenet_beitv2l_resnet50_a2_gendd": of_pair("beitv2_large", "resnet50", 300, 20, 2e-2, 0, A2),
    "imagenet_beitv2l_resnet50_a1_gendd": of_pair("beitv2_large", "resnet50", 600, 20, 1e-2, 0, A1),
    "imagenetlt_resnext101_resnet50_gendd": [{**LT, "student": "resnet50"}],
    "imagenetlt_resnext101_resnet18_gendd": [{**LT, "student": "resnet18"}],
    "cc3m_resnet34_resnet18_gendd": [{**CC3M_2, "teacher": "resnet34", "student": "resnet18"}],
    "cc3m_resnet50_mobilenetv1_gendd": [{**CC3M_2, "teacher": "resnet50", "student": "mobilenetv1"}],
    "imagenetlt_resnext101_teacher": [
        {**SGD, **LARGE, **NOT_MIXED, "method": "classification", "student": "resnext101_32x4d", "epochs": 100,
         "batch_size": 256, "lr": 0.1, "weight_decay": 5e-4, "schedule": "cosine", "min_lr": 0, "warmup_epochs": 10,
         "crop_scale": (0.08, 1)}
    ],
    "cc3m_resnet50_mobilenetv1_kl": [
        {**SGD, **CC3M, "method": "kl", "temperature": 1, "teacher": "resnet50", "student": "mobilenetv1", "lr": 0.2,
         "weight_decay": 1e-4, "schedule": "cosine", "min_lr": 1e-6, "warmup_epochs": 10}
    ],
}  # fmt: skip


def small_pair(pair: str) -> list[dict]:
    """Return both stages of a pair on CIFAR-100."""
    teacher, student = pair.split()
    shared = {"teacher": teacher, "student": student}
    rate = SLOW if student in SLOWER else {}
    second = {**CIFAR_2, **shared, **rate, "pretrain_best": pair == "vgg13 resnet20"}
    return [{**CIFAR_1, **shared}, second | ({"contraction": CONTRACTIONS[pair]} if pair in CONTRACTIONS else {})]


def small_method(words: str, own: dict) -> dict:
    """Return the published values of "METHOD TEACHER STUDENT" on CIFAR-100; the teacher may be "none"."""
    method, teacher, student = words.split()
    teacher_flags = {} if teacher == "none" else {"teacher": teacher}
    rate = SLOW if student in SLOWER else {}
    return {**CIFAR_SGD, "method": method, "student": student, **teacher_flags, **rate, **own}


def large_method(words: str, own: dict) -> dict:
    """Return the values of "METHOD TEACHER STUDENT" on ImageNet or ImageNet-LT, with only results published."""
    return {**dict(zip(("method", "teacher", "student"), words.split(), strict=True)), **FP32, **own}


CIFAR, PHOTOGRAPHS = "CIFAR-100, GenDD", "ImageNet, ImageNet-LT and CC3M, GenDD"
CIFAR_OTHERS = "CIFAR-100, teachers and other methods"
OTHERS, BASELINES = "ImageNet-LT, teacher; CC3M, KL", "ImageNet and ImageNet-LT, other methods"
OURS = "Recipes that are not published"
# Section of the page -> command -> published values of each training that the command starts.
PUBLISHED: dict[str, dict[str, list[dict]]] = {
    CIFAR: {
        f"bash sh/train_cifar100_{pair.replace(' ', '_')}_gendd.sh": small_pair(pair)
        for pair in (*CONTRACTIONS, *WITHOUT_RECIPE)
    },
    PHOTOGRAPHS: {
        f"bash sh/train_{name}.sh": trainings for name, trainings in LARGE_SCRIPTS.items() if name.endswith("gendd")
    },
    CIFAR_OTHERS: {
        **{
            f"bash sh/train_cifar100_teacher.sh {name}": [small_method(f"classification none {name}", {})]
            for name in ("resnet56", "ShuffleV1")
        },
        **{
            f"bash sh/train_cifar100_baseline.sh {words}": [small_method(words, own)]
            for words, own in CIFAR_METHODS.items()
        },
    },
    OTHERS: {
        f"bash sh/train_{name}.sh": trainings for name, trainings in LARGE_SCRIPTS.items() if not name.endswith("gendd")
    },
    BASELINES: {
        f"{recipe}bash sh/train_imagenet_baseline.sh {words}": [large_method(words, own)]
        for recipe, words, own in (
            ("", "kd resnet34 resnet18", {}),
            ("", "dkd resnet50 mobilenetv1", {}),
            ("", "kd resnext101_32x4d resnet50", {}),
            ("", "kd beitv2_large resnet50", {**A2, "epochs": 300}),
            ("RECIPE=a1 ", "kd beitv2_large resnet50", {**A1, "epochs": 600}),
        )
    },
    OURS: {
        "bash sh/train_cifar100_resnet56_resnet20_gendd_short.sh": [{}],
        "bash sh/quickstart.sh": [{}] * 5,
    },
}
# Intended differences, with reasons.
SAMPLING = {"sampler", "sampling_steps", "num_samples"}
DRAWS = {"repeats", "draw_scheme"}
WHY = {
    "precision": "bf16 on hardware with bf16 matrix units. `--precision fp32` is the published one.",
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
        folder: folder for stand-ins of Python and torchrun, which only record their arguments.
    """
    binaries, record = folder / "stub" / "bin", folder / "record"
    binaries.mkdir(parents=True, exist_ok=True)
    python = binaries / "python"
    python.write_text('#!/usr/bin/env bash\n[ "$1" != -m ] || { printf "%q " "${@:2}" && echo; } >>"$RECORD"\n')
    torchrun = binaries / "torchrun"
    torchrun.write_text('#!/usr/bin/env bash\nuntil [ "$1" = -m ]; do shift; done\nexec python "$@"\n')
    for stand_in in (python, torchrun):
        stand_in.chmod(0o755)
    record.write_text("")
    path = f"{binaries}:{os.environ['PATH']}"
    environment = {**os.environ, "VENV": binaries.parent, "PATH": path, "RECORD": record, **variables}
    environment = {name: str(value) for name, value in environment.items()}
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    started = [shlex.split(line) for line in record.read_text().splitlines()]
    started = [words[1:] if words[0] == "gendd.launch" else words for words in started]
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
        module = task.get_trainable_module()
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
        options = [name for name in field_names(type(method)) if name not in (*method.evaluation_only, *STAGE1)]
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
