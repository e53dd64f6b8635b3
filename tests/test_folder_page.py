"""The detector of docs/folder.md takes the weights of a student, and trains."""

import re
from pathlib import Path

import pytest
import timm
import torch
from photos import write_photos
from programs import train_imagenet

PAGE = (Path(__file__).parents[1] / "docs" / "folder.md").read_text()
STAGES = (2, 3, 4)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """Train a student whose stages predict the teacher's map, and return its folder."""
    folder = tmp_path_factory.mktemp("run")
    photos = write_photos(folder / "photos") / "train"
    options = {"images": photos, "teacher": "timm/test_vit", "teacher-weights": "random", "image-size": 64}
    options |= {"student": "timm/mobilenetv3_small_050", "epochs": 1, "batch-size": 4, "width": 16, "token-dim": 8}
    options |= {"dense-grid": 2, "workers": 0, "out": folder / "out"}
    flags = [f"--{name}={value}" for name, value in options.items()]
    train_imagenet(["gendd", *flags, "--dense-student-layers", *map(str, STAGES)])
    return folder / "out" / "student"


def test_detector_of_the_page_trains_from_the_students_weights(student):
    block = next(block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "RetinaNet" in block)
    page: dict = {}
    exec(block.replace("RUN/student", str(student)), page)
    images, body = torch.randn(2, 3, 64, 64), page["detector"].backbone.body.eval()
    plain = timm.create_model(f"local-dir:{student}", pretrained=True).eval()
    expected = plain.forward_intermediates(images, indices=list(STAGES), intermediates_only=True)
    for found, wanted in zip(body(images), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    box = {"boxes": torch.tensor([[10.0, 10.0, 60.0, 70.0]]), "labels": torch.tensor([1])}
    sum(page["detector"].train()([torch.rand(3, 128, 128)], [box]).values()).backward()
    assert body.conv_stem.weight.grad.abs().sum() > 0
