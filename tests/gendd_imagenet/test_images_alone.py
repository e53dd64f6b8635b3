"""A folder of images without classes, labels or an evaluation set, and evaluation on some of the classes."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from lines import refuses
from photos import CLASSES, images_and_labels, open_evaluated, open_photos
from programs import evaluate_imagenet, for_head, imagenet_config, train_imagenet

import gendd
from gendd.programs import train_run as program
from gendd.reporting.report import ReportConfig, write_report
from gendd_imagenet.sources import held_share, summarize

SHARED = ["--student", "toy:network", "--teacher", "resnet18", "--teacher-weights", "random", "--image-size", "32"]
SHARED += ["--batch-size", "20", "--workers", "0", "--warmup-epochs", "0", "--epochs", "2", "--lr", "5e-3"]
SHARED += ["--precision", "fp32"]
HEAD = ["--width", "16", "--depth", "1", "--trunk-depth", "1", "--repeats", "4", "--feature-mixup", "0"]
COMMON = [*SHARED, *HEAD]


@pytest.fixture(scope="module")
def flat(photos, tmp_path_factory):
    """Copy 90 images to nested folders whose path contains a space."""
    root = tmp_path_factory.mktemp("flat") / "my images"
    for number, image in enumerate(sorted((photos / "train").rglob("*.JPEG"))):
        (root / f"{number % 4}" / "deep").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, root / f"{number % 4}" / "deep")
    return root


@pytest.fixture(scope="module")
def run(flat, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    train_imagenet(["gendd", *COMMON, "--images", str(flat), "--runs", str(runs)])
    return runs / "my images" / "resnet18_toy.network" / "gendd" / "0"


def config(flat, *flags):
    return imagenet_config(*COMMON, "--images", str(flat), *flags)


def test_images_flag_sets_the_flags_that_it_implies(flat):
    settings = config(flat)
    settings.check()
    assert (settings.data.dataset, settings.data.unlabeled, settings.networks.teacher_classifier) == (
        str(flat),
        True,
        False,
    )
    assert settings.method.contraction == 0
    summary = summarize(settings)
    assert (summary.num_classes, summary.labeled, summary.missing) == (0, False, ())


@pytest.mark.parametrize(("images", "held"), [(90, 9), (400, 40), (500, 50), (5000, 100), (10**6, 1000), (5, 1)])
def test_two_percent_are_held_out_within_limits(flat, images, held):
    assert round(held_share(config(flat), images) * images) == held
    assert held_share(config(flat, "--holdout", "0.3"), images) == 0.3


def test_held_out_images_are_not_trained_on(flat):
    settings = config(flat)
    training, held = open_photos(settings), open_evaluated(settings)
    assert (training.size, held.size, held.split, held.class_names) == (81, 9, "held-out", ())
    assert not set(training.listing.names) & set(held.listing.names)
    assert all((labels == -1).all() for _, labels in images_and_labels(training, range(2)))


def test_images_without_classes_are_mixed(flat):
    batches = [next(open_photos(config(flat, *flags)).batches(range(1))) for flags in ([], ["--mixup", "1"])]
    assert [batch.labels.tolist() for batch in batches] == [[-1] * 8] * 2
    assert not torch.equal(batches[0].images, batches[1].images)


def test_run_on_images_is_evaluated_reported_and_exported(run, flat, photos, tmp_path, capsys):
    last = json.loads((run / "result.json").read_text())["last"]
    assert set(last) == {"head", "linear"} and set(last["head"]) == {"cosine", "r2"}, (
        "nine images have no ten neighbors"
    )
    evaluate_imagenet([str(run), "--json", str(tmp_path / "figures.json")])
    rows = {row["output"]: row for row in json.loads((tmp_path / "figures.json").read_text())["outputs"]}
    assert rows["head"]["cosine"] == last["head"]["cosine"]
    moved = shutil.copytree(flat, tmp_path / "moved")
    other = {
        ("--images", str(moved)): (str(moved), "held-out", 9),
        ("--dataset", str(photos / "val")): (str(photos / "val"), "val", 21),
    }
    for words, expected in other.items():
        evaluate_imagenet([str(run), *words, "--json", str(tmp_path / "other.json")])
        figures = json.loads((tmp_path / "other.json").read_text())
        assert (figures["dataset"], figures["split"], figures["images"]) == expected
    tensors = safetensors.torch.load_file(run / "features.safetensors")
    assert tensors["thumbnails"].shape == (9, 3, 48, 48) and tensors["thumbnails"].dtype == torch.uint8
    write_report(ReportConfig((str(run),), str(tmp_path / "report")))
    text = (tmp_path / "report" / "report.md").read_text()
    assert "Cosine, %" in text and "neighbors.png" in text and "comparison.png" not in text
    assert (tmp_path / "report" / "neighbors.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "report" / "feature_curves.png").exists()


def test_plan_of_a_folder_omits_the_papers_protocol(flat, tmp_path, capsys):
    train_imagenet(["gendd", *COMMON, "--images", str(flat), "--runs", str(tmp_path), "--dry-run"])
    plan = capsys.readouterr().out
    assert "  head " in plan and "protocol" not in plan


def test_eval_dataset_replaces_held_out_images(flat, photos, tmp_path, capsys):
    words = ["gendd", *COMMON, "--images", str(flat), "--eval-dataset", str(photos / "val")]
    train_imagenet([*words, "--runs", str(tmp_path)])
    result = json.loads(next(tmp_path.rglob("result.json")).read_text())
    assert (result["split"], result["images"]) == ("val", 21)
    evaluate_imagenet([str(next(tmp_path.rglob("result.json")).parent)])
    out = capsys.readouterr().out
    assert f"images      21 of {photos / 'val'}\n" in out and "neighbors (chance 50.0 %) %" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "nowhere"], "--images nowhere: no such folder"),
        (["--dataset", "other"], "--dataset other: --images .* replaces it"),
        (["--batch-size", "82"], "81 training images after .* fewer than --batch-size 82"),
        (["kd"], "--images .*: kd needs labels; these learn from features only: gendd and regression"),
        (["--pretrain-epochs", "1"], "--pretrain-epochs 1: stage 1 learns .* for which --images .* has no classes"),
        (["--contraction", "0.5"], "--images .*: --contraction 0.5 needs labels"),
        (
            ["kl"],
            "--images .*: its images are unlabeled, but kl learns from the teacher's classifier; ",
        ),
        (
            ["--images", "{0..3}.tar", "--steps-per-epoch", "1"],
            "--eval-dataset is missing: shards contain neither classes",
        ),
        (["--images", "{0..3.tar"], "--images {0..3.tar: its braces do not match"),
        (["--train-list", "a.txt"], "--train-list a.txt: lists labeled files, which .* does not have; leave it out"),
        (["--eval-list", "a.txt"], "--eval-list a.txt: lists labeled files, which .* does not have; leave it out"),
        (["--images", "https://me:key@host/0.tar"], "--images https://host/0.tar: a user or password in a URL"),
    ],
)
def test_invalid_images_commands_are_refused_in_one_line(flat, tmp_path, flags, message):
    method, *flags = flags if flags[0] in ("kd", "kl") else ["gendd", *flags]
    with refuses(message) as caught:
        train_imagenet(
            [method, *SHARED, *for_head(method, HEAD), "--images", str(flat), "--runs", str(tmp_path), *flags]
        )
    assert len(str(caught.value).splitlines()) == 1


def test_folder_of_five_images_is_too_small(flat, tmp_path):
    folder = tmp_path / "five"
    folder.mkdir()
    for path in sorted(path for path in flat.rglob("*") if path.is_file())[:5]:
        shutil.copy(path, folder)
    words = ["gendd", *COMMON, "--images", str(folder), "--runs", str(tmp_path / "runs")]
    with refuses(f"^--images {folder}: only 4 training images after holding out 1 of 5, fewer than"):
        train_imagenet(words)


def test_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    words = ["gendd", *COMMON, "--images", str(tmp_path / "empty"), "--runs", str(tmp_path / "runs")]
    with refuses(f"--images {tmp_path}/empty: holds no image; name a folder of images"):
        train_imagenet(words)


def test_held_out_share_of_other_images_is_refused(run, photos):
    message = f"^--images {photos}/train: its images are not those of the training, .* or evaluate all .* --dataset$"
    with refuses(message):
        evaluate_imagenet([str(run), "--images", str(photos / "train")])
    with refuses("--images .*: its images are not those"):
        gendd.evaluate(run, images=str(photos / "train"))


def test_run_is_evaluated_on_some_of_its_classes(photos, tmp_path, capsys):
    """On such data (ImageNet-A, for example) the prediction is one of these classes."""
    words = ["classification", "--dataset", str(photos), "--student", "toy:network", "--image-size", "32"]
    words += ["--batch-size", "20", "--workers", "0", "--warmup-epochs", "0", "--epochs", "1", "--precision", "fp32"]
    train_imagenet([*words, "--runs", str(tmp_path / "runs")])
    run = tmp_path / "runs" / photos.name / "toy.network" / "classification" / "0"
    for name in CLASSES[1:]:
        shutil.copytree(photos / "val" / name, tmp_path / "some" / "val" / name)
    evaluate_imagenet([str(run), "--eval-dataset", str(tmp_path / "some")])
    assert "predictions among 2 of the run's 3 classes" in capsys.readouterr().out
    (row,) = json.loads((run / "evaluation-some-val.json").read_text())["outputs"]
    assert "top5" not in row and 0 <= row["top1"] <= 100
    (tmp_path / "some" / "val" / "n02").rename(tmp_path / "some" / "val" / "n99")
    with refuses("only in one of them: .*n99"):
        evaluate_imagenet([str(run), "--eval-dataset", str(tmp_path / "some")])
    with refuses("--images .*: a run on labeled images cannot be evaluated on unlabeled ones; name a"):
        evaluate_imagenet([str(run), "--images", str(tmp_path / "some")])


def test_missing_folder_is_refused_before_networks_are_built(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "build", lambda *arguments: pytest.fail("built"))
    with refuses(f"^--images {tmp_path}/none: no such folder; name a folder of images"):
        train_imagenet(["gendd", *COMMON, "--images", str(tmp_path / "none"), "--runs", str(tmp_path / "runs")])
