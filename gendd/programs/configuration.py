"""The configuration of a run, from METHOD [flags], --recipe NAME, --config FILE or --resume RUN."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from gendd.config import Config
from gendd.core.errors import InvalidSetting, UserError, flag, naming
from gendd.family import Family
from gendd.methods import METHODS, get_method
from gendd.network_settings import TeacherNetwork
from gendd.programs.command_line import parse
from gendd.programs.teacher_flags import split_teachers
from gendd.runs.config_file import config_of, read_config
from gendd.runs.folder import RunFolder, run_path
from gendd.runs.recipes import recipe_content

# The flags at the top of a method's help.
MOST_USED = (
    *("student", "teacher", "teacher_weights", "dataset", "images", "unlabeled"),
    *("epochs", "batch_size", "lr", "seed", "dry_run"),
)


def configuration(family: Family, arguments: list[str]) -> Config:
    """Return the configuration from METHOD [flags], --recipe NAME, --config FILE or --resume RUN."""
    method, flags = ("", arguments) if arguments[0].startswith("-") else (arguments[0], arguments[1:])
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for source in SOURCES:
        finder.add_argument(f"--{source}", nargs="?", const="")
    named = vars(finder.parse_known_args(flags)[0])
    given = [(source, value) for source, value in named.items() if value is not None]
    if len(given) > 1:
        (one, name), (other, value), *_ = given
        raise UserError(f"--{one} {name}: --{other} {value} has a configuration; leave one out")
    if given:
        ((source, value),) = given
        if not value:
            # An unset variable of the shell must not start another training.
            raise UserError(f"--{source}: its value is empty; name a {NAMED[source]}")
        return SOURCES[source](family, value, method, flags)
    if not method:
        raise UserError(f"METHOD is missing: name it first, {family.command} train METHOD; {', '.join(METHODS)}")
    with naming("METHOD"):
        kind = get_method(method)
    return parsed(family, flags, family.config(kind()))


def _from_recipe(family: Family, name: str, method: str, flags: list[str]) -> Config:
    with naming("recipe"):
        config = config_of(recipe_content(name, family), family)
    return _changed(family, config, f"--recipe {name}", method, flags)


def _from_file(family: Family, file: str, method: str, flags: list[str]) -> Config:
    with naming("config"):
        config = read_config(Path(os.path.expanduser(file)), family)
    return _changed(family, config, f"--config {file}", method, flags)


def _changed(family: Family, config: Config, source: str, method: str, flags: list[str]) -> Config:
    if method not in ("", config.method.name):
        raise UserError(f"METHOD {method}: {source} is for {config.method.name}; leave METHOD out")
    config = parsed(family, flags, config)
    _refuse_commands(config, source, flags)
    return config


def _refuse_commands(config: Config, source: str, flags: list[str]) -> None:
    """Refuse a command that a file names. Only the command line may start one."""
    for name in config.data.commands:
        value = getattr(config.data, name)
        if not any(word.endswith(value) for word in flags):
            raise InvalidSetting(name, value, f"{source} names this command; read it, then give it as a flag as well")


def parsed(family: Family, flags: list[str], default: Config) -> Config:
    """Parse flags over a configuration. --paper sets its flags, unless `default` has it already.

    Flags that name a teacher replace all teachers of the configuration, and the settings of a different first teacher.
    """
    program = f"{family.command} train {default.method.name}"
    kind: Any = Config[type(default.data)]  # type: ignore[misc]
    first, further = split_teachers(flags)
    config: Config = parse(kind, program, first, default, _description(default))
    if default.networks.teacher not in (None, config.networks.teacher):
        default = default.changed(**vars(TeacherNetwork()))
        config = parse(kind, program, first, default, _description(default))
    if further is not None:
        more_teachers = tuple(parse(TeacherNetwork, program, own) for own in further)
        config = config.changed(more_teachers=more_teachers)
    if getattr(config.method, "paper", False) and not getattr(default.method, "paper", False):
        config = dataclasses.replace(config, method=family.in_protocol(config.method))
    config = config.resolved()
    # Without labels the contraction is 0. `Method.check` refuses another value from the command line.
    if config.data.unlabeled and "--contraction" not in (word.partition("=")[0] for word in flags):
        config = dataclasses.replace(config, method=config.method.without_labels())
    return config


def _description(config: Config) -> str:
    parts = [part for part in vars(config).values() if part is not config.method]
    most_used = [flag(name) for name in MOST_USED if any(hasattr(part, name) for part in parts)]
    return f"{type(config.method).__doc__}\n\nMost used: {', '.join(most_used)}."


def _resumed(family: Family, path: str, method: str, flags: list[str]) -> Config:
    """Return the configuration of a run, changed by the flags that follow --resume.

    Raises:
        UserError: the run does not exist, or a flag would make it another run.
    """
    run = RunFolder(Path(os.path.expanduser(path)))
    saved = run.config(family)
    if method not in ("", saved.method.name):
        raise UserError(f"METHOD {method}: {run.path} is a run of {saved.method.name}; leave METHOD out with --resume")
    config = parsed(family, flags, saved)
    _refuse_commands(config, f"--resume {path}", flags)
    run.check(config, family)
    out = config.run.out
    if out and out != saved.run.out and Path(out).resolve() != run.path.resolve():
        raise UserError(f"--out {out}: --resume {run.path} is another folder; leave one of them out")
    if config.run.runs != saved.run.runs and run_path(config).resolve() != run.path.resolve():
        raise UserError(f"--runs {config.run.runs}: --resume {run.path} is not in it; leave one of them out")
    return config


# Flags that name a configuration, in place of METHOD.
SOURCES = {"recipe": _from_recipe, "config": _from_file, "resume": _resumed}
NAMED = {"recipe": "recipe", "config": "file", "resume": "run folder"}
