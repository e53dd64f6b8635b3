"""The code of docs/export.md uses an exported file without the project and without torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from photos import write_photos
from PIL import Image
from programs import train_imagenet

import gendd
from gendd.runs.experiment import Experiment

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
# Printed by the page's program; torch and the project must not be imported.
SHOWN = "import sys, json\nprint(json.dumps([result.tolist(), sorted({'torch', 'gendd'} & sys.modules.keys())]))\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Experiment:
    """Train a student of timm on a few photographs."""
    root = tmp_path_factory.mktemp("photographs")
    dataset = ["--dataset", str(write_photos(root)), "--image-size", "56", "--workers", "0"]
    flags = ["--student", "timm/test_resnet", "--epochs", "1", "--batch-size", "16", "--out", str(root / "run")]
    train_imagenet(["classification", *dataset, *flags])
    return gendd.load(root / "run")


def test_onnx_file_runs_without_torch_as_documented(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the optional package onnxruntime")
    photo = next(Path(run.config.data.dataset, "val").rglob("*.JPEG"))
    # 103 * (64 / 103) is less than 64 in floating point.
    Image.open(photo).convert("RGB").resize((150, 103)).save(tmp_path / "photo.jpg")
    file = run.export(tmp_path).rename(tmp_path / "head.onnx")
    code = [sys.executable, "-c", BLOCKS[0] + SHOWN]
    shown = subprocess.run(code, cwd=file.parent, check=True, capture_output=True, text=True, timeout=60).stdout
    name, line = shown.splitlines()
    result, modules = json.loads(line)
    expected = run.predict(run.preprocessing(tmp_path / "photo.jpg"))
    torch.testing.assert_close(torch.tensor(result), expected, rtol=1e-4, atol=1e-4)
    assert name == run.class_names[expected.argmax()] and modules == []


def test_torch_file_loads_as_documented(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run.export(tmp_path, to="torch-export").rename("head.pt2")
    page: dict = {}
    exec(BLOCKS[1], page)
    images = torch.randn(3, 3, 56, 56)
    torch.testing.assert_close(page["student"](images), run.predict(images), rtol=1e-4, atol=1e-4)
    assert json.loads(page["about"]["preprocessing"])["image_size"] == 56
