"""knn, probe and zero-shot on other data than the run's, and their output files."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from lines import refuses
from photos import config, open_evaluated, refusal
from PIL import Image
from programs import evaluate_imagenet, train_imagenet

from gendd.evaluation.scores import AGREEMENT
from gendd.networks.checkpoint import read_weights
from gendd.programs import probed_features, probes
from gendd.programs.probes import knn, probe, zero_shot
from gendd.runs.metrics import _scalars
from gendd.training.progress import as_line
from gendd_imagenet import check
from gendd_imagenet import data as images
from gendd_imagenet.family import FAMILY
from gendd_imagenet.folders import list_class_folders

COMMON = ["--student", "toy:network", "--image-size", "32", "--batch-size", "16", "--workers", "0", "--epochs", "1"]
COMMON += ["--warmup-epochs", "0", "--precision", "fp32", "--lr", "1e-2"]
ANIMALS, CARS = ("a_red", "b_green", "c_blue"), ("x_blue", "y_red", "z_green")


def color(root: Path, split: str, classes: tuple[str, ...], count: int, seed: int) -> None:
    """Write images of each class, brighter in the color at the end of its name."""
    for name in classes:
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = np.random.default_rng([number, seed]).integers(0, 140, (40, 40, 3))
            pixels[..., ("red", "green", "blue").index(name.partition("_")[2])] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{number}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Write the sets animals and cars, which order their classes differently, v2 with other test images, and lists."""
    root = tmp_path_factory.mktemp("data")
    for number, (name, classes) in enumerate({"animals": ANIMALS, "cars": CARS}.items()):
        color(root / name, "train", classes, 16, 10 * number)
        color(root / name, "val", classes, 10, 10 * number + 1)
    color(root / "v2", "val", ANIMALS, 8, 5)
    for split, count in (("train", 16), ("val", 10)):
        names = [
            (f"{split}/{name}/{name}_{i}.png", label) for label, name in enumerate(ANIMALS) for i in range(1, count)
        ]
        (root / f"{split}.txt").write_text("".join(f"{name} {label}\n" for name, label in names))
    return root


def train(data: Path, runs: Path, *flags: str, method: str = "classification") -> Path:
    words = [method, *COMMON, "--dataset", str(data / "animals"), "--runs", str(runs)]
    train_imagenet([*words, *flags])
    return next(runs.rglob("config.json")).parent


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    """Train a classifier on animals, evaluated on the images of v2."""
    return train(data, tmp_path_factory.mktemp("runs"), "--eval-dataset", str(data / "v2"))


CHOICES = [
    ["--eval-dataset", "{data}/v2"],
    ["--holdout", "0.3"],
    ["--eval-list", "{data}/val.txt"],
    ["--train-list", "{data}/train.txt"],
    ["--images", "{data}/animals", "--dataset", "imagenet", "--teacher", "resnet18",
     "--teacher-weights", "random", "--width", "16", "--repeats", "2", "--feature-mixup", "0"],
]  # fmt: skip


@pytest.mark.parametrize("flags", CHOICES, ids=lambda flags: flags[0])
def test_probes_use_the_test_images_of_other_data(data, tmp_path, flags):
    method = "gendd" if "--teacher" in flags else "classification"
    run = train(data, tmp_path, *(flag.format(data=data) for flag in flags), method=method)
    words = [str(run), "--dataset", str(data / "cars")]
    knn(FAMILY, [*words, "--k", "5"])
    probe(FAMILY, words)
    for program in ("knn", "probe"):
        found = json.loads((run / f"{program}-cars-val.json").read_text())
        assert (found["dataset"], found["split"], found["images"]) == (str(data / "cars"), "val", 30)
        assert found["training images"] == 48 and found["top1"] == 100


def test_evaluate_uses_the_test_images_of_other_data(data, run, capsys):
    evaluate_imagenet([str(run), "--dataset", str(data / "animals")])
    assert f"30 of the val split of {data / 'animals'}" in capsys.readouterr().out
    evaluate_imagenet([str(run)])
    assert f"24 of the val split of {data / 'v2'}" in capsys.readouterr().out
    figures = [json.loads((run / name).read_text()) for name in ("evaluation-animals-val.json", "evaluation.json")]
    assert [(Path(found["dataset"]).name, found["images"]) for found in figures] == [("animals", 30), ("v2", 24)]


def test_figures_of_other_data_have_other_files(data, run):
    knn(FAMILY, [str(run), "--k", "5"])
    usual = (run / "knn.json").read_bytes()
    knn(FAMILY, [str(run), "--k", "5", "--dataset", str(data / "cars")])
    assert (run / "knn.json").read_bytes() == usual and json.loads(usual)["dataset"] == str(data / "v2")


def test_features_are_computed_again_for_changed_files(data, run, tmp_path, monkeypatch):
    # The first batch, which is compared, holds all images of this set.
    monkeypatch.setattr(probed_features, "TOLERANCE", math.inf)
    copied, own = shutil.copytree(run, tmp_path / "run"), shutil.copytree(data / "animals", tmp_path / "animals")
    words = [str(copied), "--dataset", str(own)]
    knn(FAMILY, words)
    file = copied / "features" / "animals-val-backbone.safetensors"
    before = safetensors.torch.load_file(file)["features"]
    for image in (own / "val" / "a_red").iterdir():
        Image.new("RGB", (40, 40)).save(image)
    knn(FAMILY, words)
    assert not torch.equal(safetensors.torch.load_file(file)["features"], before)


def test_unanimous_neighbors_have_no_calibration_error(run):
    knn(FAMILY, [str(run), "--k", "1"])
    found = json.loads((run / "knn.json").read_text())
    assert found["top1"] == 100 and found["ece"] == 0


@pytest.mark.parametrize(("name", "likeness"), [("v.pt", "cosine"), ("v.npy", "cosine"), ("named.pt", "dot")])
def test_class_vectors_are_read_and_cosines_have_no_ece(run, tmp_path, name, likeness):
    vectors = torch.eye(3, read_weights(run)["classifier.weight"].shape[1])
    torch.save(vectors, tmp_path / "v.pt")
    np.save(tmp_path / "v.npy", vectors.numpy())
    torch.save({"weight": vectors, "bias": torch.zeros(3)}, tmp_path / "named.pt")
    words = [str(run), "--features", "backbone", "--class-vectors", str(tmp_path / name), "--likeness", likeness]
    zero_shot(FAMILY, words)
    found = json.loads((run / "zero-shot-backbone.json").read_text())
    assert ("ece" in found) == (likeness == "dot") and found["images"] == 24


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": [1.0]}, "does not hold class vectors"),
        ({"weight": Path()}, "holds more than tensors and plain values"),
    ],
)
def test_invalid_class_vectors_are_refused(run, tmp_path, content, message):
    torch.save(content, tmp_path / "v.pt")
    with refuses(message) as caught:
        zero_shot(FAMILY, [str(run), "--features", "backbone", "--class-vectors", str(tmp_path / "v.pt")])
    assert str(caught.value).startswith("--class-vectors ")


def test_unwritable_output_is_refused_before_computing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(probes, "load", lambda *arguments, **changed: pytest.fail("computed"))
    with refuses("cannot write .*nope/x.json: .*; name another place .*: --json FILE"):
        knn(FAMILY, [str(run), "--json", str(tmp_path / "nope" / "x.json")])


def test_evaluation_of_an_unfinished_run_says_so(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    evaluate_imagenet([str(tmp_path / "run")])
    assert "weights, after epoch 1 of 1\n" in capsys.readouterr().out
    (tmp_path / "run" / "result.json").unlink()
    evaluate_imagenet([str(tmp_path / "run")])
    knn(FAMILY, [str(tmp_path / "run"), "--k", "1"])
    words = "after epoch 1 of 1: the run is incomplete, its final evaluation is missing\n"
    assert capsys.readouterr().out.count(words) == 2


def test_real_labels_need_unique_image_numbers(data, run, tmp_path):
    """The numbers of the images start at 1 in each class."""
    (tmp_path / "real.json").write_text(json.dumps([[0, 1]] * 50))
    words = [str(run), "--dataset", str(data / "animals"), "--eval-list", str(tmp_path / "real.json")]
    with refuses("--eval-list .*real.json: 3 images of .* have the number 1; it needs"):
        evaluate_imagenet(words)
    (tmp_path / "real.json").write_text("[[0.5], [-1]]")
    with refuses("does not hold lists of class numbers from 0"):
        evaluate_imagenet(words)


def test_real_labels_are_used_in_training_and_knn(data, tmp_path):
    """The numbers of evaluation images are unique. Images have several labels or none."""
    shutil.copytree(data / "animals", tmp_path / "animals")
    paths = sorted((tmp_path / "animals" / "val").rglob("*.png"))
    for number, path in enumerate(paths, 1):
        path.rename(path.parent / f"val_{number:08d}.png")
    labels = [[ANIMALS.index(path.parent.name), 0] for path in paths[:20]] + [[]] * 10
    (tmp_path / "real.json").write_text(json.dumps(labels))
    flags = ["--dataset", str(tmp_path / "animals"), "--teacher", "resnet18", "--teacher-weights"]
    flags += ["random", "--width", "16", "--repeats", "2", "--feature-mixup", "0", "--contraction", "0.5"]
    run = train(data, tmp_path / "runs", *flags, "--eval-list", str(tmp_path / "real.json"), method="gendd")
    knn(FAMILY, [str(run), "--k", "1"])
    found = json.loads((run / "knn.json").read_text())
    assert (found["images"], found["top1"]) == (20, 100)
    assert safetensors.torch.load_file(run / "features.safetensors")["labels"].shape == (20,)


def test_evaluate_refuses_nonfinite_weights(run, tmp_path):
    tensors = dict(read_weights(run))
    tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], torch.inf)
    torch.save(tensors, tmp_path / "broken.pt")
    words = [str(tmp_path / "broken.pt"), "--student", "toy:network", "--dataset", "imagenet"]
    with refuses("broken.pt: classifier.weight holds values that are not finite"):
        evaluate_imagenet([*words, "--dataset", json.loads((run / "config.json").read_text())["data"]["dataset"]])


@pytest.mark.parametrize("unknown", [6, 21])
def test_images_without_a_label_are_counted_or_refused(photos, monkeypatch, capsys, unknown):
    """If some labels are unknown, the images are skipped and counted. If all are, the data set is refused at once."""
    listing = list_class_folders(photos, "val")
    listing = listing.with_labels(listing.labels.where(torch.arange(len(listing)) >= unknown, -1))
    for module in (images, check):
        monkeypatch.setattr(module, "list_evaluation", lambda config: listing)
    settings = config(photos)
    if unknown == len(listing):
        for refused in (open_evaluated, check.check_data):
            assert refusal(refused, settings).startswith(f"--dataset {photos}: no evaluation image has a label")
        return
    data = open_evaluated(settings)
    assert (data.size, data.passed_over) == (15, {"without a label": 6})
    check.check_data(settings)
    assert "3 classes of 1 to 7, 6 without a label" in capsys.readouterr().out


def test_log_and_tensorboard_show_percent(tmp_path):
    values = {"images": 101, "head": {"cosine": 71.2, "neighbors": 40.0}, AGREEMENT: {"cosine": 0.5, "norm": 2.0}}
    line = as_line(values)
    assert (
        "head cosine 71.20 %, neighbors (chance 10.0 %) 40.00 %" in line and "features cosine 50.00 %, norm 2" in line
    )
    assert dict(_scalars(("eval",), values, 101)) == {
        "eval/images": 101, "eval/head/cosine (%)": 71.2, "eval/head/neighbors (chance 10.0 %) (%)": 40.0,
        "eval/features/cosine (%)": 50.0, "eval/features/norm": 2.0
    }  # fmt: skip
