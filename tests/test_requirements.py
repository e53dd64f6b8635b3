"""Dependencies are declared, pinned and, except for torch's builds, hashed."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gendd", "gendd_cifar", "gendd_imagenet")
# Files of these packages differ between builds.
NOT_LOCKED = {"torch", "torchvision"}
# Only users of these loggers install them. They bring some fifty packages, and the tests skip what needs them.
NOT_PINNED = {"wandb", "mlflow"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, set[str]]:
    """Return the versions of each package in a file of requirements."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / file).read_text(), re.MULTILINE):
        found.setdefault(normal(name), set()).add(version)
    return found


def declared() -> set[str]:
    """Return the names of the packages that pyproject.toml requires, including extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    return {normal(re.match(r"[\w.-]+", need)[0]) for need in needed} - {"gendd"}


def imported() -> set[str]:
    """Return the top-level names of other projects' modules that the packages import."""
    names = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {*PACKAGES}


def test_imported_packages_are_declared():
    distributions = packages_distributions()
    modules = {name for name in imported() if name in distributions}
    assert modules >= {"torch", "PIL", "matplotlib"}
    assert {normal(name) for module in modules for name in distributions[module]} <= declared()


def test_declared_packages_are_pinned():
    assert declared() - pins("piplist.txt").keys() == NOT_PINNED


def test_lock_holds_every_pin_with_hashes():
    locked = pins("requirements.lock")
    pinned = {name: version for name, version in pins("piplist.txt").items() if name not in NOT_LOCKED}
    assert {name: locked.get(name) for name in pinned} == pinned
    assert not locked.keys() & NOT_LOCKED
    entries = re.split(r"^(?=\w)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 100 and all("--hash=sha256:" in entry for entry in entries)
