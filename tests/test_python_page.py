"""The code of docs/python.md runs as it is, but with random weights and short."""

import re
from pathlib import Path

import pytest
import timm
import torch
from photos import write_photos

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.replace("pretrained=True", "pretrained=False"), re.DOTALL)


def test_page_has_the_tested_blocks():
    assert len(BLOCKS) == 6


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_distill_and_use_of_the_result_run_as_documented(here):
    photos = write_photos(here / "path/to/images")
    photos = sorted((photos / "train").rglob("*.JPEG"))
    for name, photo in zip(("cat.jpg", "dog.jpg"), photos, strict=False):
        (here / name).write_bytes(photo.read_bytes())
    small = "epochs=1, image_size=64, teacher_weights='random', width=16, depth=1, token_dim=8, workers=0"
    (here / "path/to/images/val").rename(here / "val")
    (here / "path/to/images/train").rename(here / "path/to/images/photos")
    distill = BLOCKS[0].replace("resnet34.tv_in1k", "test_resnet").replace("resnet18", "test_vit")
    page: dict = {}
    for block in (distill.replace("epochs=100", small), BLOCKS[1]):
        exec(block, page)
    assert page["images"].shape == (2, 3, 64, 64)
    assert page["features"].shape == (2, 64) and page["teacher_like"].shape == (2, page["run"].teacher.width)
    assert (here / "runs/mine/report/report.md").is_file()


def test_own_networks_and_batches_run_as_documented(here):
    teacher = timm.create_model("test_resnet", num_classes=5)
    page = {"teacher": teacher}
    exec(BLOCKS[2], page)
    assert page["run"].outputs == ("head", "probe")
    exec(r"loaded = gendd.load('runs/batches', student=student, teacher=teacher)", page)
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(page["loaded"].predict(images), page["run"].predict(images))


def test_head_in_a_plain_loop_runs_as_documented():
    page: dict = {}
    exec(BLOCKS[3], page)
    assert page["features"].shape == (8, 512)


def test_lightning_module_trains_as_documented(here):
    pytest.importorskip("lightning", reason="needs the optional package lightning")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 3, 64, 64), torch.zeros(8)), batch_size=4
    )
    page = {"loader": loader}
    exec(BLOCKS[4], page)
    assert page["trainer"].global_step == 2


def test_task_for_timm_trains_as_documented():
    page: dict = {}
    exec(BLOCKS[5], page)
    trained = page["task"].trainable_module
    assert all(p.grad is not None for p in trained.backbone.parameters())
    assert all(p.grad is None for p in page["teacher"].parameters())
