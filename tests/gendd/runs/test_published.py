"""The published folder: paths that leave this machine, and the file that a name stands for."""

import os
from pathlib import Path

import pytest
from lines import refuses

from gendd.core.errors import MissingFile
from gendd.runs.published import WHOLE, located, portable


@pytest.mark.parametrize(
    "value, expected",
    [
        ("/home/me/data/imagenet/", "imagenet"),
        ("/data", "data"),
        ("~me/data/imagenet", "imagenet"),
        ("../other/imagenet", "imagenet"),
        ("/home/my folder/teacher.pth", "teacher.pth"),
        ("local-dir:/home/me/teacher", "local-dir:teacher"),
        ("hub:/home/me/dinov2:dinov2_vits14", "hub:dinov2:dinov2_vits14"),
        ("open_clip:ViT-B-32//home/me/clip.pt", "open_clip:ViT-B-32/clip.pt"),
        ("pipe:cat /home/me/00.tar", "pipe:cat 00.tar"),
        ("https://host/folder/00.tar", "https://host/folder/00.tar"),
        ("runs/cifar100/resnet56/0", "runs/cifar100/resnet56/0"),
        ("timm/resnet34.tv_in1k", "timm/resnet34.tv_in1k"),
        ("package.module:function", "package.module:function"),
    ],
)
def test_path_outside_the_working_folder_is_shortened(value, expected):
    assert portable({"teacher": [value, 3, None, True]}) == {"teacher": [expected, 3, None, True]}


def test_path_in_the_working_folder_becomes_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = os.getcwd()
    assert portable(f"{here}/runs/resnet56/0") == "runs/resnet56/0"
    assert portable(f"local-dir:{here}/runs/student") == "local-dir:runs/student"


def test_name_stands_for_the_file_with_all_weights(tmp_path):
    for name in ("runs/mine", "-h", "kd", str(tmp_path)):
        assert located(name) == Path(name)
    (tmp_path / WHOLE).touch()
    assert located(tmp_path) == located(f"local-dir:{tmp_path}") == tmp_path / WHOLE
    with refuses(f"local-dir:nowhere: nowhere holds no {WHOLE}; put its files into a folder", MissingFile):
        located("local-dir:nowhere")
