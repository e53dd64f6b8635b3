"""Make the packages' recipes, gendd_cifar/recipes.json and gendd_imagenet/recipes.json, from the scripts of sh/.

    python bench/recipe_files.py

A recipe holds the values that a script sets, and no others. Each network of the CIFAR zoo has a recipe that trains it
alone. Each script of a pair has a recipe, and one more per method of the baseline script.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from recipes import ROOT, family_of, programs

from gendd.config import Config
from gendd.family import Family
from gendd.methods import METHODS
from gendd.programs.configuration import configuration
from gendd.runs.recipes import FILE
from gendd_cifar.models.zoo import NETWORKS

# Scripts that need the names of networks.
GENERAL = ("train_cifar100_teacher", "train_cifar100_baseline", "train_imagenet_baseline")
BASELINES = [name for name in METHODS if name not in ("gendd", "pretrain", "finetune")]
NETWORK = re.compile(r"^ +--(?:teacher|student) (\w+)$", re.MULTILINE)


def commands() -> Iterator[tuple[str, str]]:
    """Yield the name and the shell command of each recipe."""
    for network in NETWORKS:
        yield network, f"bash sh/train_cifar100_teacher.sh {network}"
    for script in sorted((ROOT / "sh").glob("train_*.sh")):
        if script.stem not in GENERAL:
            name = re.sub("^train_(cifar100_|imagenet_)?|_gendd", "", script.stem)
            yield name, f"bash sh/{script.name}"
            for method, command in baselines(script.stem, NETWORK.findall(script.read_text())):
                yield f"{name}_{method}", command
    # This pair has published baselines, but no script.
    for method, command in baselines("train_cifar100_", ["ResNet50", "MobileNetV2"]):
        if method != "regression":
            yield f"ResNet50_MobileNetV2_{method}", command


def baselines(script: str, pair: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the methods to compare with a pair's script, and the command of each."""
    for method in BASELINES:
        if script.endswith("_short"):
            yield method, f"METHOD={method} bash sh/{script}.sh"
        elif script.startswith("train_cifar100") and method != "classification":
            yield method, f"bash sh/train_cifar100_baseline.sh {method} {' '.join(pair)}"
        elif script.startswith("train_imagenet") and method != "kl" and len(pair) == 2:
            augmentation = "a1" if "_a1_" in script else "a2"
            yield method, f"RECIPE={augmentation} bash sh/train_imagenet_baseline.sh {method} {' '.join(pair)}"


@dataclass(frozen=True)
class Training:
    """The training that a recipe's command starts."""

    family: Family
    arguments: list[str]
    config: Config


@cache
def training(name: str) -> Training:
    """Return the training of a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        ((module, arguments),) = programs(dict(commands())[name], Path(folder))
    family = family_of(module)
    return Training(family, arguments, configuration(family, arguments))


def trainings() -> dict[str, Training]:
    """Return the training of each recipe by its name."""
    names = [name for name, _ in commands()]
    assert len(names) == len(set(names)), names
    return {name: training(name) for name in names}


def content(arguments: list[str], config: Config) -> dict[str, dict[str, Any]]:
    """Return the values that flags set in a configuration, in the format of a configuration file."""
    typed = {word[2:].replace("-", "_") for word in arguments if word.startswith("--")}
    parts = {
        part: {name: value for name, value in values.items() if name in typed}
        for part, values in config.content().items()
    }
    unknown = typed - {name for values in parts.values() for name in values}
    assert not unknown, unknown
    parts["method"] = {"name": config.method.name, **parts["method"]}
    return {part: values for part, values in parts.items() if values}


def recipe_files() -> dict[Path, str]:
    """Return the path and the text of each family's file, one recipe per line."""
    lines: dict[Path, list[str]] = {}
    for name, started in trainings().items():
        family = started.family.name
        recipe = {"family": family, **content(started.arguments, started.config)}
        lines.setdefault(ROOT / family / FILE, []).append(f"{json.dumps(name)}: {json.dumps(recipe)}")
    return {path: "{\n" + ",\n".join(recipes) + "\n}\n" for path, recipes in lines.items()}


if __name__ == "__main__":
    for path, text in recipe_files().items():
        path.write_text(text)
        print(path)
