"""The recipes program of both families: list the recipes, or print one."""

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from gendd.config import Config
from gendd.core.errors import naming
from gendd.family import Family
from gendd.programs.command_line import parse
from gendd.reporting.published import quoted_of
from gendd.runs.config_file import config_of
from gendd.runs.folder import by_name
from gendd.runs.recipes import recipe_content, recipes_of

COLUMNS = ("NAME", "teacher > student", "method", "epochs", "published top-1, %")


@dataclass(frozen=True)
class RecipesConfig:
    """List the recipes, or print one. train --config reads what is printed."""

    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="[NAME]")]] = ""
    """Recipe to print. All are listed if not given."""


def recipes(family: Family, arguments: list[str]) -> None:
    """Run the recipes program of a family.

    Raises:
        UserError: the name is unknown.
    """
    name = parse(RecipesConfig, f"{family.command} recipes", arguments).name
    if name:
        with naming("NAME"):
            print(json.dumps(recipe_content(name, family), indent=2))
        return
    rows = [COLUMNS, *(_row(name, config_of(content, family)) for name, content in recipes_of(family).items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(name: str, config: Config) -> tuple[str, ...]:
    networks, first = config.networks, config.method.pretraining(config)
    pair = " > ".join(filter(None, (networks.teacher, networks.student)))
    epochs = f"{first.optimizer.epochs} + {config.optimizer.epochs}" if first else str(config.optimizer.epochs)
    return name, pair, config.method.name, epochs, _published(config)


def _published(config: Config) -> str:
    """Return the published figure of a recipe's method and pair; empty if it is unknown or of another length."""
    values = by_name(config.content())
    quoted = quoted_of(values, "head") or quoted_of(values, "classifier")
    return f"{quoted.top1:.2f}" if quoted and quoted.epochs in (None, config.optimizer.epochs) else ""
