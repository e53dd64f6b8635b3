"""Run shell scripts like a user, and parse the programs that they start."""

import os
import subprocess
import sys
from pathlib import Path

import recipes

from gendd.config import Config
from gendd.programs.configuration import configuration as configuration_of

ROOT = Path(__file__).resolve().parents[2]


def bash(*command, cwd=ROOT, **variables) -> subprocess.CompletedProcess:
    """Run bash with an environment in which the scripts use this Python."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CPU_PROCS": "1",
        "PYTHONPATH": str(ROOT),
        "VENV": sys.prefix,
        **{name: str(value) for name, value in variables.items()},
    }
    return subprocess.run(["bash", *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)


def refusal(result: subprocess.CompletedProcess) -> str:
    """Return the one line that a refused command prints."""
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line


def configuration(module: str, arguments: list[str]) -> Config:
    return configuration_of(recipes.family_of(module), arguments)
