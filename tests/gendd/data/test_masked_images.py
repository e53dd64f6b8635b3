"""Folders of images with masks, and what is refused."""

import numpy as np
import pytest
import torch
from lines import refuses
from PIL import Image

from gendd.data.masked_images import MaskedImages


@pytest.fixture
def folder(tmp_path):
    """Write six images of 12 x 20 pixels, whose left half has gray value 3 and whose right half has 7."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(6):
        pixels = np.zeros((12, 20, 3), np.uint8)
        pixels[:, 10:] = 40 * number
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        mask = np.full((12, 20), 3, np.uint8)
        mask[:, 10:], mask[0] = 7, 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


def test_masks_hold_indices_of_the_values(folder):
    data = MaskedImages(folder)
    assert data.classes == [3, 7] and len(data.images) == 6
    image, mask = data.load(5, 4)
    assert image.dtype == mask.dtype == torch.uint8
    assert image.shape == (3, 4, 4) and image[0, 0, [0, 3]].tolist() == [0, 200]
    assert mask[1].tolist() == [0, 0, 1, 1] and data.load(5, 12)[1][0].tolist() == [255] * 12


def test_palette_masks_hold_their_indices(folder):
    for path in (folder / "masks").iterdir():
        mask = Image.open(path).copy()
        mask.putpalette([255 - value for value in range(256) for _ in range(3)])
        assert mask.mode == "P"
        mask.save(path)
    assert MaskedImages(folder).classes == [3, 7]


def test_bits_of_a_mask_are_two_classes(folder):
    for path in (folder / "masks").iterdir():
        Image.open(path).point(lambda value: 255 * (value == 7)).convert("1").save(path)
    data = MaskedImages(folder)
    assert data.classes == [0, 1] and data.load(0, 4)[1][1].tolist() == [0, 0, 1, 1]


def test_folder_that_does_not_fit_is_refused(folder):
    with refuses("has no folder images/; give images/NAME.jpg and masks/NAME.png"):
        MaskedImages(folder / "images")
    (folder / "masks" / "2.png").rename(folder / "kept.png")
    with refuses("2.png has no mask; add"):
        MaskedImages(folder)
    Image.new("RGB", (20, 12)).save(folder / "masks" / "2.png")
    with refuses(f"^{folder}: 2.png has mode RGB; save 8-bit gray values$"):
        MaskedImages(folder)
    Image.new("L", (12, 20)).save(folder / "masks" / "2.png")
    with refuses(r"2.png has \(12, 20\) pixels, its image \(20, 12\)"):
        MaskedImages(folder)
    (folder / "masks" / "2.png").write_bytes(b"broken")
    with refuses("2.png or its image is broken"):
        MaskedImages(folder)
    for path in (folder / "masks").iterdir():
        Image.new("L", (20, 12), 9).save(path)
    with refuses(r"the masks have the values \[9\]; give at least two classes"):
        MaskedImages(folder)
