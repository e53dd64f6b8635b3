"""Settings of all tests: one thread per process, since toy models are small, and the folder of optional real data."""

from pathlib import Path

import pytest
import torch
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

import gendd  # noqa: F401  (makes torchvision importable)

torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data and reference numbers, which is optional."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the optional data folder {SHARED.name}/ next to the project")
    return SHARED
