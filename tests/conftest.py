"""Shared by all tests: one thread a process (the toy models are small), and where optional real data lies."""

from pathlib import Path

import pytest
import torch
from skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

import gendd  # noqa: F401  (makes torchvision importable)

torch.set_num_threads(1)
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real data and reference figures that lies beside some checkouts."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the optional data folder {SHARED.name}/ beside the project")
    return SHARED
