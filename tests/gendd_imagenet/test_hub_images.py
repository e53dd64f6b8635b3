"""Images of Hugging Face data sets, from a folder of parquet files."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lines import refuses
from photos import open_photos
from PIL import Image
from programs import imagenet_config, train_imagenet

from gendd_imagenet.check import check_data
from gendd_imagenet.hub_images import _load, list_hub
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


def test_hub_set_lists_images_labels_and_classes(hub):
    config = imagenet_config(*COMMON, "--dataset", hub, method="classification")
    training, evaluation = list_training(config), list_evaluation(config)
    assert (len(training), training.split, len(evaluation), evaluation.split) == (24, "train", 9, "test")
    assert training.classes == tuple(NAMES) and training.labels.tolist() == [row % 3 for row in range(24)]
    chosen = training.select(torch.tensor([5, 2]))
    decoded = np.asarray(Image.open(io.BytesIO(chosen.content(0))))
    assert (decoded == pixels("train", 5)).all() and chosen.labels.tolist() == [2, 2]
    summary = summarize(config)
    assert (summary.num_classes, summary.labeled, summary.missing) == (3, True, ())


def test_hub_set_trains_with_labels_and_is_checked(hub, tmp_path, capsys):
    flags = ["classification", *COMMON, "--dataset", hub, "--runs", str(tmp_path)]
    train_imagenet([*flags, "--check-data"])
    assert "24 images to train on, 3 classes of 8 to 8" in capsys.readouterr().out
    train_imagenet(flags)
    data = json.loads((tmp_path / "pets" / "toy.network" / "classification" / "0" / "data.json").read_text())
    assert data["classes"] == NAMES


def test_resume_refuses_a_hub_set_with_other_images(hub, tmp_path):
    root = Path(shutil.copytree(hub.removeprefix("hfds/"), tmp_path / "pets"))
    flags = ["classification", *COMMON, "--dataset", f"hfds/{root}", "--runs", str(tmp_path / "runs")]
    train_imagenet(flags)
    file = root / "data" / "train-00000-of-00001.parquet"
    rows = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    rows.select([*range(23), 20]).to_parquet(str(file))
    (tmp_path / "runs" / "pets" / "toy.network" / "classification" / "0" / "result.json").unlink()
    for cached in (list_hub, _load):
        cached.cache_clear()
    with refuses("holds a run of other data: as many training images .* but with other contents"):
        train_imagenet(flags)


def test_hub_set_distills_without_labels(hub, tmp_path):
    flags = ["gendd", *COMMON, "--images", hub, "--teacher", "resnet18", "--teacher-weights", "random"]
    train_imagenet([*flags, "--width", "16", "--repeats", "2", "--runs", str(tmp_path)])
    result = json.loads((tmp_path / "pets" / "resnet18_toy.network" / "gendd" / "0" / "result.json").read_text())
    assert result["split"] == "held-out" and result["images"] == 2 and "cosine" in result["last"]["head"]


@pytest.mark.parametrize("flag", ["--train-list", "--eval-list"])
def test_hub_set_refuses_lists_of_files(hub, flag):
    with refuses(f"{flag} list.txt: lists labeled files, which hfds/.* does not have; leave it out"):
        imagenet_config(*COMMON, "--dataset", hub, flag, "list.txt", method="classification").check()


def test_absent_hub_set_or_package_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    absent = imagenet_config(*COMMON, "--dataset", f"hfds/{tmp_path}/none", method="classification")
    with refuses(r"^--dataset hfds/.*none: cannot be loaded"):
        list_training(absent)
    with (
        refuses("has the splits train, test; it needs nowhere"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("gendd_imagenet.hub_images.TRAIN", ("nowhere",))
        list_training(imagenet_config(*COMMON, "--dataset", hub, method="classification"))
    _load.cache_clear()
    list_hub.cache_clear()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refuses(r'needs the package datasets .*; pip install "gendd\[datasets\]"$'):
        list_training(absent)


# Other columns, rows, splits and configurations


def write_set(
    root, sizes=SIZES, image="image", label="label", kind=None, labels=lambda size: [i % 3 for i in range(size)]
):
    """Write a data set with these image and label columns; return its name."""
    kind = kind or datasets.ClassLabel(names=NAMES)
    for split, size in sizes.items():
        images = [Image.fromarray(pixels(split, row)) for row in range(size)]
        features = datasets.Features({image: datasets.Image(), label: kind})
        table = datasets.Dataset.from_dict({image: images, label: labels(size)}, features)
        table.to_parquet(str(root / "data" / f"{split}-00000-of-00001.parquet"))
    return f"hfds/{root}"


def classified(name, *flags):
    return imagenet_config(*COMMON, "--dataset", name, *flags, method="classification")


@pytest.mark.parametrize(
    ("image", "label", "kind"),
    [
        ("img", "fine_label", None),
        ("picture", "species", None),
        ("image", "labels", datasets.Value("int64")),
        ("image", "label", datasets.Value("string")),
    ],
)
def test_usual_column_names_are_read(tmp_path, image, label, kind):
    text = kind and kind.dtype == "string"
    name = write_set(
        tmp_path / "set", SIZES, image, label, kind, lambda n: [NAMES[i % 3] if text else i % 3 for i in range(n)]
    )
    training, evaluation = list_training(classified(name)), list_evaluation(classified(name))
    assert training.labels.tolist() == [row % 3 for row in range(24)]
    assert evaluation.labels.tolist() == [row % 3 for row in range(9)]
    assert training.classes == evaluation.classes == (("0", "1", "2") if label == "labels" else tuple(NAMES))
    assert (np.asarray(Image.open(io.BytesIO(training.content(5)))) == pixels("train", 5)).all()


def test_text_labels_have_one_number_in_all_splits(tmp_path):
    """The test split does not contain the first class."""
    words = {24: [NAMES[row % 3] for row in range(24)], 9: [NAMES[1 + row % 2] for row in range(9)]}
    name = write_set(tmp_path / "set", kind=datasets.Value("string"), labels=words.get)
    assert list_evaluation(classified(name)).labels.tolist() == [1 + row % 2 for row in range(9)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"label": "weight", "kind": datasets.Value("float32")},
            "has the columns image, weight, and none",
        ),
        ({"kind": datasets.Value("float32")}, "has the columns image, label, and none is clearly the label"),
    ],
)
def test_unclear_columns_are_named(tmp_path, columns, message):
    name = write_set(tmp_path / "set", **columns, labels=lambda size: [0.5] * size)
    with refuses(f"^--dataset {name}: {message}") as refused:
        summarize(classified(name))
    assert "--unlabeled" in str(refused.value)
    assert len(list_training(imagenet_config(*COMMON, "--images", name))) == 24


def test_hub_set_without_images_names_its_columns(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    table.to_parquet(str(tmp_path / "set" / "data" / "train-00000-of-00001.parquet"))
    with refuses("has the columns text, label; none holds images; name the images' column image"):
        list_training(classified(f"hfds/{tmp_path}/set"))


def test_rows_without_image_or_label_are_counted(tmp_path, capsys):
    root = tmp_path / "set"
    name = write_set(root, labels=lambda size: [None if row % 4 == 1 else row % 3 for row in range(size)])
    file = str(root / "data" / "train-00000-of-00001.parquet")
    table = datasets.load_dataset("parquet", data_files=file, split="train")
    rows = [{**row, "image": None if number < 2 else row["image"]} for number, row in enumerate(table)]
    datasets.Dataset.from_list(rows, features=table.features).to_parquet(file)
    training = list_training(classified(name))
    assert len(training) == 22 and training.passed_over == {"without an image": 2}
    assert training.labels.tolist() == [-1 if row % 4 == 1 else row % 3 for row in range(2, 24)]
    flags = ["classification", *COMMON, "--dataset", name, "--runs", str(tmp_path / "runs")]
    train_imagenet(flags)
    told = capsys.readouterr().out
    assert "images     17 to train on, 7 of test to evaluate on" in told
    assert "ignored    7 without a label, 2 without an image" in told
    check_data(classified(name))
    assert "22 images to train on, 3 classes of 5 to 6, 5 without a label" in capsys.readouterr().out
    part = open_photos(classified(name, "--label-fraction", "0.5"), batch=4)
    assert sum(label >= 0 for label in part.listing.labels.tolist()) == 8 and part.size == 22


def test_missing_separate_file_of_a_hub_set_is_listed(photos, tmp_path, capsys):
    root = Path(shutil.copytree(photos, tmp_path / "set"))
    name = f"hfds/{root}"
    check_data(classified(name))
    assert "nothing is missing" in capsys.readouterr().out
    (root / "train" / "n01" / "n01_3.JPEG").unlink()
    with refuses("1 missing or broken"):
        check_data(classified(name))


def test_unlabeled_test_split_is_refused_before_training(tmp_path):
    name = write_set(tmp_path / "set", labels=lambda size: [-1 if size == 9 else row % 3 for row in range(size)])
    flags = ["classification", *COMMON, "--dataset", name, "--runs", str(tmp_path / "runs")]
    for look in ([], ["--check-data"]):
        with refuses(f"^--dataset {name}: no evaluation image has a label"):
            train_imagenet([*flags, *look])
    assert not list((tmp_path / "runs").rglob("*.jsonl"))
    train_imagenet([*flags, "--holdout", "0.3"])


def test_hub_set_with_train_only_needs_holdout(tmp_path, capsys):
    name = write_set(tmp_path / "set", {"train": 24})
    with refuses("has the splits train; it needs validation or val or test: --holdout 0.1"):
        summarize(classified(name))
    check_data(classified(name, "--holdout", "0.3"))
    assert "24 images to train on and to hold out, 3 classes of 8 to 8" in capsys.readouterr().out
    flags = [
        "classification",
        *COMMON,
        "--dataset",
        name,
        "--holdout",
        "0.3",
        "--runs",
        str(tmp_path / "runs"),
    ]
    train_imagenet(flags)
    told = capsys.readouterr().out
    assert "images     17 to train on, 7 training images held out to evaluate on" in told and "a part held out" in told


def test_one_of_several_configurations_must_be_named(tmp_path):
    root = tmp_path / "sizes"
    for configuration, size in (("small", 6), ("large", 12)):
        write_set(root / configuration, {"train": size, "test": 3})
    configurations = [f"- config_name: {name}\n  data_dir: {name}\n" for name in ("small", "large")]
    (root / "README.md").write_text("---\nconfigs:\n" + "".join(configurations) + "---\n")
    for name in (f"hfds/{root}", f"hfds/{root}:huge"):
        with refuses(f"^--dataset {name}: has the configurations small, large; name one"):
            summarize(classified(name))
    assert len(list_training(classified(f"hfds/{root}:large"))) == 12
    assert len(list_training(classified(f"hfds/{root}:small"))) == 6


def test_test_labels_missing_in_train_are_refused(tmp_path):
    """Labels with another spelling in the test split would become classes that the student never learned."""
    words = {24: [NAMES[row % 3] for row in range(24)], 9: [NAMES[row % 3].upper() for row in range(9)]}
    name = write_set(tmp_path / "set", kind=datasets.Value("string"), labels=words.get)
    with refuses(f"^--dataset {name}: its split test has labels that are not in train, such as"):
        list_evaluation(classified(name))
    assert len(list_evaluation(imagenet_config(*COMMON, "--images", name, "--eval-dataset", name))) == 9


def test_image_without_bytes_is_empty_content(tmp_path):
    name = write_set(tmp_path / "set")
    file = str(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    table = datasets.load_dataset("parquet", data_files=file, split="train").cast_column(
        "image", datasets.Image(decode=False)
    )
    rows = [{**row, "image": {"bytes": b"", "path": None}} if number < 1 else row for number, row in enumerate(table)]
    datasets.Dataset.from_list(rows, features=table.features).to_parquet(file)
    assert list_training(classified(name)).content(0) == b""
