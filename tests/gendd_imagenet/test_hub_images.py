"""Images of Hugging Face datasets, from a folder of parquet files."""

import importlib.util
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from programs import imagenet_config, train_imagenet

from gendd.errors import UserError
from gendd_imagenet.check import check_data
from gendd_imagenet.hub_images import list_hub
from gendd_imagenet.sources import list_evaluation, list_training, summarize

datasets = pytest.importorskip("datasets", reason="datasets, an extra, is not installed")
SIZES = {"train": 24, "test": 9}
NAMES = ["cat", "dog", "owl"]
COMMON = ["--student", "toy:network", "--image-size", "32", "--batch-size", "8", "--workers", "2", "--epochs", "1"]


def pixels(split: str, row: int) -> np.ndarray:
    return np.random.default_rng([len(split), row]).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub") / "pets"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    for split, size in SIZES.items():
        images = [Image.fromarray(pixels(split, row)) for row in range(size)]
        content = {"image": images, "label": [row % 3 for row in range(size)]}
        table = datasets.Dataset.from_dict(content, features=features)
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return f"hfds/{root}"


def test_its_images_labels_and_classes_are_listed(hub):
    config = imagenet_config("--method", "classification", *COMMON, "--dataset", hub)
    training, evaluation = list_training(config), list_evaluation(config)
    assert (len(training), training.split, len(evaluation), evaluation.split) == (24, "train", 9, "test")
    assert training.classes == tuple(NAMES) and training.labels.tolist() == [row % 3 for row in range(24)]
    chosen = training.select(torch.tensor([5, 2]))
    decoded = np.asarray(Image.open(io.BytesIO(chosen.content(0))))
    assert (decoded == pixels("train", 5)).all() and chosen.labels.tolist() == [2, 2]
    summary = summarize(config)
    assert (summary.num_classes, summary.labeled, summary.missing) == (3, True, ())


def test_it_trains_with_labels_and_is_checked(hub, tmp_path, capsys):
    flags = ["--method", "classification", *COMMON, "--dataset", hub, "--runs", str(tmp_path)]
    check_data(imagenet_config(*flags))
    assert "24 images to train on, 3 classes of 8 to 8" in capsys.readouterr().out
    train_imagenet(flags)
    data = json.loads((tmp_path / "pets" / "toy.network" / "classification" / "0" / "data.json").read_text())
    assert data["classes"] == NAMES


def test_it_distills_without_labels(hub, tmp_path):
    flags = ["--method", "gendd", *COMMON, "--images", hub, "--teacher", "resnet18", "--teacher-weights", "random"]
    train_imagenet([*flags, "--width", "16", "--repeats", "2", "--runs", str(tmp_path)])
    result = json.loads((tmp_path / "pets" / "resnet18_toy.network" / "gendd" / "0" / "result.json").read_text())
    assert result["split"] == "validation" and result["images"] == 2 and "cosine" in result["last"]["head"]


@pytest.mark.parametrize("flag", ["--train-list", "--eval-list"])
def test_lists_are_of_files(hub, flag):
    with pytest.raises(UserError, match=f"{flag} list.txt: hfds/.* has no files to list; leave it out"):
        imagenet_config("--method", "classification", *COMMON, "--dataset", hub, flag, "list.txt").check()


def test_what_is_not_there_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    absent = imagenet_config("--method", "classification", *COMMON, "--dataset", f"hfds/{tmp_path}/none")
    with pytest.raises(UserError, match=r"^--dataset hfds/.*none: cannot be loaded"):
        list_training(absent)
    with pytest.raises(UserError, match="no images in nowhere"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("gendd_imagenet.hub_images.TRAIN", ("nowhere",))
        list_training(imagenet_config("--method", "classification", *COMMON, "--dataset", hub))
    list_hub.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package datasets, which is not installed; pip install datasets"):
        list_training(absent)
