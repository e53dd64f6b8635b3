"""Dependencies are declared, pinned and, except for torch's builds, hashed."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gendd", "gendd_cifar", "gendd_imagenet")
# Files of these packages differ between builds.
NOT_LOCKED = {"torch", "torchvision"}
# Only users of these loggers and clouds install them. They bring many packages, and the tests replace or skip them.
NOT_PINNED = {"wandb", "mlflow", "s3fs", "gcsfs", "adlfs"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, set[str]]:
    """Return the versions of each package in a file of requirements."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / file).read_text(), re.MULTILINE):
        found.setdefault(normal(name), set()).add(version)
    return found


def declared(extras: bool = True) -> set[str]:
    """Return the names of the packages that pyproject.toml requires."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"].values() if extras else ()
    needed = [*project["dependencies"], *(name for names in optional for name in names)]
    return {normal(re.match(r"[\w.-]+", need)[0]) for need in needed} - {"gendd"}


def imported(everywhere: bool = True) -> set[str]:
    """Return the top-level names of other projects' modules that the packages import.

    Args:
        everywhere: also in functions.
    """
    names = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree) if everywhere else tree.body:
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - {*PACKAGES}


@pytest.mark.parametrize("extras", [True, False])
def test_imported_packages_are_declared(extras):
    """An import at the top of a module needs the base install; one in a function may need an extra."""
    distributions = packages_distributions()
    modules = {name for name in imported(everywhere=extras) if name in distributions}
    assert modules >= {"torch", "PIL", "matplotlib"}
    assert {normal(name) for module in modules for name in distributions[module]} <= declared(extras)


def test_extras_named_in_errors_exist():
    """A missing package's error names its extra and the package is in it."""
    calls = {
        tuple(argument.value for argument in node.args[:2])
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "imported_extra"
        and isinstance(node.args[0], ast.Constant)
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    distributions = packages_distributions()
    assert ("submitit", "slurm") in calls
    for package, extra in calls:
        names = {normal(name) for name in distributions.get(package, [package])}
        assert names & {normal(re.match(r"[\w.-]+", need)[0]) for need in extras[extra]}


def test_install_page_lists_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE))
    assert extras.keys() <= listed
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"gendd\[(\w+)\]", page.read_text())}
    assert "foundation" in named and named <= listed


def test_declared_packages_are_pinned():
    assert declared() - pins("piplist.txt").keys() == NOT_PINNED


def test_lock_holds_every_pin_with_hashes():
    locked = pins("requirements.lock")
    pinned = {name: version for name, version in pins("piplist.txt").items() if name not in NOT_LOCKED}
    assert {name: locked.get(name) for name in pinned} == pinned
    assert not locked.keys() & NOT_LOCKED
    entries = re.split(r"^(?=\w)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 100 and all("--hash=sha256:" in entry for entry in entries)
