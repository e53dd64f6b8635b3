"""Find the family of a command: from the module that the user typed, or from a run among the arguments."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gendd.core.command import typed_command
from gendd.core.errors import InvalidValue, UserError, naming, no_such
from gendd.family import FAMILIES, Family, family_named
from gendd.runs.config_file import read_content
from gendd.runs.folder import RunFolder, embedded_record
from gendd.runs.recipes import recipe_content

IMAGES = {"gendd_cifar": "small images", "gendd_imagenet": "photographs"}


class UnknownFamily(UserError):
    """A command that needs a family and does not name one."""


def find_family(module: str, arguments: Sequence[str], own_flags: bool) -> Family:
    """Return the family of a module; for `gendd`, of the run or the recipe that the arguments name.

    Without a run, the environment variable FAMILY names it.

    Args:
        own_flags: True if the program's flags differ between the families.

    Raises:
        UnknownFamily: no family is named and the flags depend on it.
        UserError: a run folder is damaged, or the named family does not exist.
    """
    if module in FAMILIES:
        return family_named(module)
    source, name = next(_named(arguments), ("FAMILY", os.environ.get("FAMILY")))
    if not name and own_flags:
        program, *named = arguments
        if program == "evaluate" and named and not named[0].startswith("-") and not Path(named[0]).exists():
            raise UnknownFamily(f"CHECKPOINT {named[0]}: {no_such(named[0], 'file or folder')}; check the path")
        commands = " or ".join(f"{typed_command(family)} {program} ... ({images})" for family, images in IMAGES.items())
        raise UnknownFamily(
            f"PROGRAM {program}: the family of images is unknown, as no argument is a run folder or a file with a "
            f"configuration; correct the path, or choose {commands}"
        )
    try:
        return replace(family_named(name or FAMILIES[0]), typed=module)
    except InvalidValue as error:
        raise UserError(f"{source} {error}") from error


def explain_choice(module: str, program: str) -> str:
    """Return the help of a program whose flags differ between the families, for a command that names no family."""
    commands = {f"{typed_command(family)} {program}": images for family, images in IMAGES.items()}
    width = max(map(len, commands))
    return f"""\
usage: {typed_command(module)} {program} [flags], where a run, a recipe or a configuration file names the images

Otherwise choose the command for your images; its --help lists the flags:
""" + "\n".join(f"  {command:<{width}}  {images}" for command, images in commands.items())


def _named(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (place, family) for each recipe, run, checkpoint or configuration file among the arguments."""
    words = [
        word for given in arguments for word in (given.split("=", 1) if given.startswith("--recipe=") else [given])
    ]
    if "--recipe" in words[:-1]:
        name = words[words.index("--recipe") + 1]
        with naming("recipe"):
            yield f"--recipe {name}: family", recipe_content(name, *map(family_named, FAMILIES))["family"]
    values = (argument.partition("=")[2] if argument.startswith("-") else argument for argument in arguments)
    for path in (Path(value) for value in values if value):
        if Path(path, "config.json").is_file():
            yield f"{path}/config.json: family", _family_in(RunFolder(path).read("config.json"), path)
        elif path.is_file() and (record := embedded_record(path) or _content(path)):
            yield f"{path}: family", _family_in(record, path)


def _family_in(record: dict, path: Path) -> str:
    if "family" not in record:
        raise UserError(
            f"{path}: its configuration does not name a family, so another version made it; use the version that "
            f"made it, or in a file of your own name one: {', '.join(FAMILIES)}"
        )
    return str(record["family"])


def _content(path: Path) -> dict:
    """Return the content of a JSON file; empty for other files."""
    try:
        return read_content(path) if path.suffix == ".json" else {}
    except InvalidValue:
        return {}
