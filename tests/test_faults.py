"""The short form of the faults behind docs/reliability.md."""

import os
import subprocess
import sys
from pathlib import Path

FAULTS = Path(__file__).with_name("faults")


def test_short_form_of_the_faults_breaks_no_promise():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FAULTS.parents[1])}
    command = [sys.executable, FAULTS, "--short"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
