"""The wheel: its content, and its commands in a folder without the repository."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("gendd", "gendd_cifar", "gendd_imagenet")
STUDENT = ("--dataset", "digits", "--student", "resnet8", "--epochs", "1")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return a folder into which pip installed the wheel. It is built from a copy, since a build writes files."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, capture_output=True)
    return site


@pytest.fixture
def run(site, tmp_path):
    """Return a function that runs an installed command in an empty folder and returns its output."""

    def command(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
        program = [site / "bin" / words[0], *words[1:]]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return command


def test_wheel_holds_the_packages_and_their_data_alone(site):
    inside = {path.relative_to(site) for package in PACKAGES for path in (site / package).rglob("*") if path.is_file()}
    there = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    assert {path for path in inside if path.suffix != ".pyc"} == {path for path in there if path.suffix != ".pyc"}
    assert {Path(package, "py.typed") for package in PACKAGES} | {Path("gendd_cifar/digits.npz")} <= inside
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {*PACKAGES, "bin"}


@pytest.mark.parametrize("command", ["gendd", "gendd-cifar", "gendd-imagenet"])
def test_installed_command_prints_version_and_help(command, run):
    assert run(command, "--help").startswith(f"usage: {command} PROGRAM ")
    assert run(command, "--version").startswith("gendd 0")


def test_installed_commands_train_evaluate_and_compare_digits(run, tmp_path):
    run("gendd-cifar", "train", "classification", *STUDENT)
    folder = tmp_path / "runs/digits/resnet8/classification/0"
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["git_commit"] is None and environment["versions"]["gendd"]
    assert "top-1" in run("gendd", "evaluate", str(folder))
    run("gendd", "compare", "classification", "1", "--", *STUDENT)
    assert (tmp_path / "runs/comparisons/digits/report.md").is_file()


def test_installed_launcher_starts_two_processes(run, monkeypatch):
    monkeypatch.setenv("CPU_PROCS", "2")
    assert "2 processes" in run("gendd-cifar", "launch", "train", "classification", *STUDENT, "--dry-run")
