"""A skipped test fails in .ci/run, so a missing package cannot hide untested code."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from skips import ACCEPTED

TOYS = Path(__file__).with_name("toys")
MODULE = "import pytest\npytest.importorskip('no_such_package', reason='no_such_package is not installed')\n"
TEST = "import pytest\n\ndef test_it():\n    pytest.skip('{}')\n"


@pytest.mark.parametrize(
    ("content", "strict", "status"),
    [
        (TEST.format("g++ is not installed"), "1", 1),
        (TEST.format("g++ is not installed"), "", 0),
        (TEST.format("needs a CUDA GPU"), "1", 0),
        (MODULE, "1", 2),
    ],
)
def test_skip_fails_if_forbidden(content, strict, status, tmp_path):
    (tmp_path / "test_skipping.py").write_text(content + "\n\ndef test_other():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "-q", "-rs", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(TOYS), "FAIL_SKIPPED": strict, "PYTEST_ADDOPTS": ""}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # They take seconds.
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stdout
    assert "is not installed" in result.stdout or "needs a CUDA GPU" in result.stdout


def test_skip_for_a_package_of_the_tests_is_refused():
    """Only packages that the extra `test` does not install are optional."""
    project = tomllib.loads((TOYS.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own, *others = extras["test"]
    needed = [*others, *(package for extra in re.findall(r"\w+", own)[1:] for package in extras[extra])]
    assert {"onnxruntime", "submitit", "trackio"} <= set(needed)
    accepted = [package for package in needed if f"needs the optional package {package}".startswith(ACCEPTED)]
    assert not accepted
