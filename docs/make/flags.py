"""Make docs/flags.md, the list of every program's flags, from the dataclasses of the command lines.

python docs/make/flags.py
"""

import dataclasses
import json
import typing
from pathlib import Path

from gendd.core.errors import flag
from gendd.family import Family
from gendd.methods import METHODS, GenDD
from gendd.programs.command_line import help_of, own_help
from gendd.programs.dense_probe import DenseProbeConfig
from gendd.programs.equal_cost import EqualCostConfig
from gendd.programs.evaluate import EvaluateOptions
from gendd.programs.export import ExportConfig
from gendd.programs.probes import FeatureProgram, KnnConfig, ProbeConfig, ZeroShotConfig
from gendd.programs.publish import PublishConfig
from gendd.programs.sampling import SamplingProgram
from gendd.reporting.report import ReportConfig
from gendd_cifar.family import FAMILY as CIFAR
from gendd_imagenet.family import FAMILY as IMAGENET
from gendd_imagenet.reinforce import ReinforceConfig

PAGE = Path(__file__).parents[1] / "flags.md"
HEAD = """# Every flag

`python docs/make/flags.py` makes this page from the dataclasses of the command lines; `PROGRAM --help` prints the same.
Boolean flags have two forms, such as `--sync-bn` and `--no-sync-bn`. The scripts of `sh/` accept all flags of the
program that they start.
"""
TITLES = {
    "networks": "Networks",
    "data": "Images",
    "optimizer": "Length and optimizer",
    "run": "The run",
}


def named(name: str, hint: object) -> str:
    """Return the flag of a field, or the name of a positional argument."""
    for extra in getattr(hint, "__metadata__", ()):
        if getattr(extra, "name", None):
            return f"--{extra.name}"
        if "Positional" in repr(extra):
            return name.upper()
    return flag(name)


def shown(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, (tuple, list)):
        return " ".join(map(shown, value))
    return f"`{json.dumps(value) if isinstance(value, bool) else value}`".replace('"', "")


def choices(hint: object) -> str:
    """Return the choices of a flag, or "" if it accepts any value."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) is typing.Literal:
        return "; ".join(f"`{word}`" for word in typing.get_args(hint))
    for part in typing.get_args(hint):
        if found := choices(part):
            return found
    return ""


def table(kind: type, names: list[str], defaults: object = None) -> str:
    hints, texts = typing.get_type_hints(kind, include_extras=True), help_of(kind)
    lines = ["| flag | default | |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        # A field without help groups flags of other tables.
        if field.name not in names or field.name not in texts:
            continue
        default = getattr(defaults, field.name) if defaults else field.default
        default = "" if default is dataclasses.MISSING else shown(default)
        text = texts.get(field.name, "").replace("|", "\\|").replace("<", "&lt;")
        words = f" ({words})" if (words := choices(hints[field.name])) else ""
        lines.append(f"| `{named(field.name, hints[field.name])}` | {default} | {text}{words} |")
    return "\n".join(lines)


def fields_of(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def train_flags(family: Family) -> str:
    parts = [f"## {family.name} train\n"]
    for name, part in vars(family.config(GenDD())).items():
        if name != "method":
            kind = type(part)
            parts.append(f"### {TITLES[name]}: {family.name}\n\n{table(kind, fields_of(kind), part)}\n")
    return "\n".join(parts)


def method_flags() -> str:
    """Return a table per class of options, with the methods that have them."""
    owners: dict[type, list[str]] = {}
    for name, kind in METHODS.items():
        for base in kind.__mro__:
            if dataclasses.is_dataclass(base) and own_help(base):
                owners.setdefault(base, []).append(name)
    parts = [
        "## Methods\n",
        "`train METHOD` also accepts these flags; its `--help` prints the method's defaults.\n",
    ]
    for kind, methods in sorted(owners.items(), key=lambda item: (-len(item[1]), item[1])):
        title = kind.__doc__.splitlines()[0].rstrip(".")
        parts.append(f"### {title}: {', '.join(methods)}\n\n{table(kind, list(own_help(kind)))}\n")
    return "\n".join(parts)


def program_flags() -> str:
    parts = []
    for name, kind in {
        "evaluate": EvaluateOptions,
        "knn, probe, zero-shot": FeatureProgram,
        "knn": KnnConfig,
        "probe": ProbeConfig,
        "zero-shot": ZeroShotConfig,
        "sampling": SamplingProgram,
        "equal-cost": EqualCostConfig,
        "publish": PublishConfig,
        "dense-probe": DenseProbeConfig,
        "export": ExportConfig,
        "report": ReportConfig,
        "reinforce": ReinforceConfig,
    }.items():
        own = kind is not FeatureProgram and issubclass(kind, FeatureProgram)
        parts.append(f"## {name}\n\n{table(kind, list(own_help(kind)) if own else fields_of(kind))}\n")
    return "\n".join(parts)


def page() -> str:
    return "\n".join([HEAD, train_flags(CIFAR), train_flags(IMAGENET), method_flags(), program_flags()])


if __name__ == "__main__":
    PAGE.write_text(page())
