from pathlib import Path

import pytest
from photos import CLASSES, write_images


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """ImageNet's layout: train/ with 3 classes of 30 images, val/ with 7 of each."""
    root = tmp_path_factory.mktemp("photos")
    for name in CLASSES:
        write_images(root / "train" / name, 30)
        write_images(root / "val" / name, 7, first=1000)
    return root
