"""Fixtures for the programs that a script starts, their dry runs, and a copy of the project."""

import contextlib
import shutil
import socket
from pathlib import Path

import pytest
import recipes
from shell import ROOT

from gendd.programs.dry_run import MissingInputs
from gendd.programs.train import train


@pytest.fixture
def recorded(tmp_path):
    """Return a function from a shell command to the (module, arguments) of each Python program that it would start."""
    return lambda command, **variables: recipes.programs(command, tmp_path, **variables)


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Return a function from (module, arguments) to the output of a dry run, which must not use the network."""
    asked = []

    def look_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(f"{host}: tests have no network")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CPU_PROCS", "1")

    def run(module: str, arguments: list[str]) -> str:
        # The data and the teachers may be missing, which the output lists.
        with contextlib.suppress(MissingInputs):
            train(recipes.family_of(module), [*arguments, "--dry-run", "--runs", str(tmp_path / "runs")])
        assert not asked
        return capsys.readouterr().out

    return run


@pytest.fixture
def project(tmp_path) -> Path:
    """Return a folder with a copy of the scripts, which they may write to."""
    shutil.copytree(ROOT / "sh", tmp_path / "project" / "sh")
    return tmp_path / "project"
