"""Recipes: named configurations. Each family has a file of them, which bench/recipe_files.py makes from sh/."""

import json
from importlib.resources import files
from typing import Any

from gendd.config import Config
from gendd.core.errors import unknown_name
from gendd.family import FAMILIES, Family, family_named
from gendd.runs.config_file import config_of

FILE = "recipes.json"


def recipe(name: str) -> Config:
    """Return the configuration of a recipe of any family, such as "resnet56_resnet20".

    Raises:
        InvalidValue: the name is unknown (the message lists the nearest names).
    """
    content = recipe_content(name, *map(family_named, FAMILIES))
    return config_of(content, family_named(content["family"]))


def recipe_content(name: str, *families: Family) -> dict[str, Any]:
    """Return a recipe of one of the families, in the format of a configuration file.

    Raises:
        InvalidValue: the name is unknown (the message lists the nearest names).
    """
    known = {name: content for family in families for name, content in recipes_of(family).items()}
    if name not in known:
        raise unknown_name(name, known)
    return known[name]


def recipes_of(family: Family) -> dict[str, dict[str, Any]]:
    """Return the recipes of a family by name, in the format of a configuration file."""
    file = files(family.name) / FILE
    return json.loads(file.read_text()) if file.is_file() else {}
