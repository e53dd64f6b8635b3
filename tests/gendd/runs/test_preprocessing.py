"""Preprocessing of images and files for a loaded student."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lines import refuses
from photos import write_images
from PIL import Image

from gendd.data.decode import BrokenImage
from gendd.runs.preprocessing import Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PHOTOS = Preprocessing(32, MEAN, STD, interpolation="bilinear", crop_pct=0.875, crop_mode="center")


def test_image_of_the_right_size_is_only_normalized():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = Preprocessing(32, MEAN, STD, "bicubic", 1.0, "center")
    expected = (torch.tensor(pixels).double() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(
        whole(Image.fromarray(pixels)), expected.permute(2, 0, 1)[None].float(), rtol=1e-5, atol=1e-6
    )


def test_paths_and_images_give_the_same_input(tmp_path):
    write_images(tmp_path / "n01", 2)
    files = sorted((tmp_path / "n01").iterdir())
    images = PHOTOS(files)
    assert images.shape == (2, 3, 32, 32) and images.dtype == torch.float32
    torch.testing.assert_close(images[1:], PHOTOS(Image.open(files[1])), rtol=0, atol=0)
    torch.testing.assert_close(images[:1], PHOTOS(str(files[0])), rtol=0, atol=0)


def test_gray_image_gets_three_channels():
    assert PHOTOS(Image.new("L", (40, 60))).shape == (1, 3, 32, 32)


def test_preprocessing_states_timms_arguments():
    network = SimpleNamespace(pretrained_cfg={"mean": MEAN, "std": STD})
    geometry = {"interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    data = SimpleNamespace(image_size=48, geometry=geometry)
    assert Preprocessing.of(network, data).timm == {"input_size": (3, 48, 48), "mean": MEAN, "std": STD} | geometry


def test_broken_file_is_refused(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(BrokenImage):
        PHOTOS(tmp_path / "bad.jpg")


def test_unknown_geometry_is_refused():
    with refuses("trained on given batches; preprocess its images as they were"):
        Preprocessing(32, MEAN, STD)(Image.new("RGB", (32, 32)))


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_normalized_images_leave_no_doubt(mean, std, kind):
    """Images of black, gray and white pixels, and dark ones, in single and in half precision."""
    center, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    for brightest in (0.1, 0.6, 1.0):
        images = ((torch.tensor([0.0, brightest]).expand(3, 1, 2) - center) / spread).to(kind)
        assert Preprocessing(2, mean, std).doubt(float(images.min()), float(images.max())) == ""


@pytest.mark.parametrize("values", [(0, 1), (0.1, 0.9), (-1, 1), (0, 255), (-2, 3.5), (-3, 2.6)])
def test_images_of_another_range_are_doubted(values):
    """Images of ImageNet's normalization have values from -2.118 (black, red) to 2.64 (white, blue)."""
    doubt = Preprocessing(2, *IMAGENET).doubt(*values)
    assert doubt.startswith(f"{values[0]:g} to {values[1]:g}, but ") and "have -2.12 to 2.64; check" in doubt
