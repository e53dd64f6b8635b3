"""The train program on small photographs with toy networks: all methods, long tails, shards and processes."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from forked import run_in_two
from lines import refuses
from photos import write_images
from PIL import Image
from programs import for_head
from programs import train_imagenet as main
from small_runs import assert_same_weights, ctrl_c, timeless_metrics

from gendd.runs.metrics import read_metrics
from gendd_imagenet.make_shards import main as make_shards

TOY = "toy:network"
COMMON = ["--student", TOY, "--image-size", "32", "--batch-size", "16", "--epochs", "2", "--warmup-epochs", "0",
          "--eval-every", "1", "--precision", "fp32", "--workers", "0", "--crop-pct", "1"]  # fmt: skip
HEAD = ["--token-dim", "32", "--width", "16", "--depth", "1", "--repeats", "2", "--sampling-steps", "1"]


@pytest.fixture(scope="module")
def teacher(photos, tmp_path_factory) -> Path:
    """Train a classifier of the three colors."""
    runs = tmp_path_factory.mktemp("teacher")
    main(["classification", *COMMON, "--dataset", str(photos), "--lr", "5e-3", "--epochs", "12",
          "--eval-every", "12", "--runs", str(runs)])  # fmt: skip
    return runs / photos.name / "toy.network" / "classification" / "0"


@pytest.fixture
def run(photos, teacher, tmp_path):
    """Return a function that trains with further flags, and returns the run's folder."""

    def train(*flags: str, method: str = "gendd", runs: str = "runs", dataset: str = str(photos)) -> Path:
        flags = (method, *COMMON, *for_head(method, HEAD), "--dataset", dataset, *flags)
        main([*flags, "--teacher", TOY, "--teacher-weights", str(teacher), "--runs", str(tmp_path / runs)])
        (config,) = (tmp_path / runs).glob(f"*/toy.network_toy.network/{method}/0/config.json")
        return config.parent

    return train


@pytest.fixture(scope="module")
def shards(photos, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    make_shards([str(photos / "train"), str(folder), "--images-per-shard", "23"])
    return f"{folder}/{{00000..00003}}.tar"


@pytest.fixture
def unlabeled(photos, shards) -> list[str]:
    """Return flags for training without labels from shards."""
    return ["--dataset", shards, "--eval-dataset", str(photos), "--steps-per-epoch", "5", "--unlabeled",
            "--contraction", "0"]  # fmt: skip


def result(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def test_teacher_learns_the_colors(teacher):
    assert result(teacher)["last"]["classifier"]["top1"] > 80


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("gendd", ["--mixup", "0.2", "--cutmix", "1", "--label-smoothing", "0.1", "--auto-augment",
                   "rand-m7-n2-mstd0.5", "--feature-mixup", "0"]),
        ("gendd", ["--unlabeled", "--contraction", "0"]),
        ("gendd", ["--label-fraction", "0.2"]),
        ("pretrain", ["--crop-scale", "0.08", "1"]),
        ("kd", ["--label-smoothing", "0.1"]),
        ("dkd", ["--mixup", "0.2", "--label-smoothing", "0.1", "--distill-warmup-epochs", "0"]),
        ("ikl", ["--label-smoothing", "0.1", "--distill-warmup-epochs", "0"]),
        ("dist", ["--label-smoothing", "0.1"]),
        ("srd", ["--mixup", "0.2"]),
        ("vkd", []),
        ("simkd", []),
        ("regression", ["--feature-mixup", "0", "--contraction", "0"]),
        ("kl", ["--unlabeled", "--temperature", "1", "--optimizer", "sgd"]),
    ],
    ids=["gendd", "gendd-unlabeled", "gendd-few-labels", "pretrain", "kd", "dkd", "ikl", "dist", "srd", "vkd", "simkd",
         "regression", "kl"],
)  # fmt: skip
def test_method_learns_on_photographs(run, method, flags):
    folder = run(*flags, method=method)
    # The variational bound is noisy with so few images.
    losses = [record.get("mse", record["loss"]) for record in read_metrics(folder) if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert result(folder)["images"] == 21 and result(folder)["split"] == "val"


def test_resumed_run_from_shards_equals_an_uninterrupted_one(run, unlabeled):
    whole = run(*unlabeled, runs="whole")
    with ctrl_c("train_step", step=7):
        run(*unlabeled, runs="parts")
    assert_same_weights(run(*unlabeled, runs="parts"), whole, rtol=0, atol=0)


@pytest.mark.parametrize("source", ["folder", "shards"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_run_resumes_within_an_epoch_to_the_same_bits(run, unlabeled, source, workers):
    flags = [*(unlabeled if source == "shards" else ["--steps-per-epoch", "5"]), "--workers", workers]
    whole = run(*flags, runs="whole")
    with ctrl_c("train_step", step=9):
        run(*flags, "--checkpoint-steps", "3", runs="parts")
    parts = run(*flags, runs="parts")
    assert_same_weights(parts, whole, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)


# A cache of teacher features

VIEWS = ["--cached-views", "2", "--auto-augment", "rand-m7-n2-mstd0.5", "--label-smoothing", "0.1", "--epochs", "3"]


def test_run_from_a_cache_equals_the_run_with_its_teacher(run, tmp_path):
    """Views are equal up to rounding: one crop of the whole image, without a flip."""
    same = ["--crop-scale", "1", "1", "--hflip", "0", "--optimizer", "sgd", "--lr", "1e-1", "--batch-size", "4"]
    same += ["--train-list", str(tmp_path / "squares.txt")]
    square = tmp_path / "photos"
    for name, label in (("n01", 0), ("n02", 1), ("n03", 2)):
        for split, first in (("train", 0), ("val", 1000)):
            write_images(square / split / name, 10, first)
            for path in (square / split / name).iterdir():
                Image.open(path).resize((48, 48)).save(path, quality=95)
        with open(tmp_path / "squares.txt", "a") as lines:
            lines.writelines(f"train/{name}/{name}_{number}.JPEG {label}\n" for number in range(10))
    beside = run(*same, dataset=str(square), runs="beside")
    cached = run(*same, "--teacher-cache", str(tmp_path / "cache"), dataset=str(square), runs="cached")
    ours, theirs = ([record["loss"] for record in read_metrics(folder) if record["kind"] == "train"]
                    for folder in (cached, beside))  # fmt: skip
    assert ours == pytest.approx(theirs, rel=1e-4) and ours != theirs
    assert_same_weights(cached, beside, rtol=1e-2, atol=1e-3)


def test_resumed_run_from_a_cache_equals_an_uninterrupted_one(run, tmp_path):
    cache = [*VIEWS, "--teacher-cache", str(tmp_path / "cache")]
    whole = run(*cache, runs="whole")
    record = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert record["images"] == 90 and record["auto_augment"] == "rand-m7-n2-mstd0.5"
    with ctrl_c("train_step", step=7):
        run(*cache, runs="parts")
    assert_same_weights(run(*cache, "--workers", "2", runs="parts"), whole, rtol=0, atol=0)


def test_cache_of_images_with_other_contents_is_refused(photos, run, tmp_path):
    """The teacher runs on the first 32 of 90 images only."""
    copy = Path(shutil.copytree(photos, tmp_path / photos.name))
    cache = ["--teacher-cache", str(tmp_path / "cache"), "--epochs", "1"]
    run(*cache, dataset=str(copy))
    shutil.copy(copy / "train" / "n01" / "n01_0.JPEG", copy / "train" / "n03" / "n03_0.JPEG")
    with refuses("--teacher-cache .*: was made from other settings: image contents sha256 "):
        run(*cache, dataset=str(copy), runs="changed")


def test_stage_1_with_other_crops_has_a_cache_of_its_own(run, tmp_path):
    run("--teacher-cache", str(tmp_path / "cache"), "--unlabeled", "--pretrain-epochs", "1", "--epochs", "1")
    records = [json.loads((tmp_path / "cache" / path).read_text()) for path in ("cache.json", "pretrain/cache.json")]
    assert [record["crop_scale"] for record in records] == [[0.6, 1], [0.08, 1]]


def test_cache_refuses_mixed_images_and_shards(run, unlabeled, tmp_path):
    cache = ["--teacher-cache", str(tmp_path / "cache")]
    for mixing in ("--mixup", "--cutmix"):
        with refuses(f"{mixing} 0.2: mixes the images of each batch anew"):
            run(*cache, mixing, "0.2")
    with refuses("--teacher-cache .*: does not work with shards"):
        run(*cache, *unlabeled)
    assert not (tmp_path / "cache").exists()


def test_cache_of_other_views_or_images_is_refused(run, photos, tmp_path):
    copy = Path(shutil.copytree(photos, tmp_path / "copy"))
    cache = ["--teacher-cache", str(tmp_path / "cache"), "--cached-views", "1", "--epochs", "1", "--auto-augment"]
    run(*cache, "rand-m7-n2", dataset=str(copy), runs="first")
    for flags, words in (
        (["rand-m9-n2"], "auto augment rand-m7-n2 there, rand-m9-n2 here"),
        (["rand-m7-n2", "--crop-scale", "0.5", "1"], r"crop scale \[0.6, 1.0\] there, \[0.5, 1.0\] here"),
        (["rand-m7-n2", "--image-size", "48"], "image size 32 there, 48 here"),
        (["rand-m7-n2", "--interpolation", "bicubic"], "interpolation bilinear there, bicubic here"),
    ):
        with refuses(f"was made from other settings: {words}; name another folder"):
            run(*cache, *flags, dataset=str(copy), runs="second")
    for path in (copy / "train").glob("*/*"):
        Image.new("RGB", (50, 50), (255, 0, 255)).save(path)
    record = tmp_path / "cache" / "cache.json"
    stated = json.loads(record.read_text())
    del stated["image_contents_sha256"]  # As in records of earlier versions.
    record.write_text(json.dumps(stated))
    with refuses("features now differ by .* from the cached ones in view-000-000000.fp16"):
        run(*cache, "rand-m7-n2", dataset=str(copy), runs="second")
    (copy / "train" / "n01" / "n01_0.JPEG").rename(copy / "train" / "n01" / "n01_x.JPEG")
    with refuses("image names sha256"):
        run(*cache, "rand-m7-n2", dataset=str(copy), runs="second")
    assert not list((tmp_path / "second").glob("**/result.json"))


def test_training_without_labels_needs_the_unlabeled_flag(run, unlabeled, photos):
    with refuses("it does not have labels; train without them: --unlabeled"):
        run(*[flag for flag in unlabeled if flag != "--unlabeled"])
    with refuses("METHOD kl: it reads no labels; add --unlabeled"):
        run(method="kl")
    with refuses("--unlabeled: kd needs labels; choose a method that learns without: kl, "):
        run("--unlabeled", method="kd")


@pytest.mark.parametrize(
    "method, flags, message",
    [
        ("gendd", ["--batch-size", "512"], "90 training images, fewer than --batch-size 512"),
        ("gendd", ["--holdout", "0.001"], "--holdout 0.001: leaves none of 90 images to evaluate on"),
        ("dkd", ["--label-fraction", "0.1"], "9 training images, fewer than --batch-size 16"),
        ("gendd", ["--mixup", "0.2", "--batch-size", "5", "--feature-mixup", "0"], "gives micro-batches of 5 images"),
        ("gendd", ["--train-list", "list.txt"], "entries are missing below"),
    ],
)
def test_dry_run_finds_all_errors_in_the_data(run, tmp_path, monkeypatch, capsys, method, flags, message):
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("train/n01/nowhere.JPEG 0\n" * 20)
    with refuses() as refused:
        run(*flags, method=method)
    assert message in str(refused.value)
    before = list(tmp_path.rglob("*"))
    with pytest.raises(ValueError):  # The dry run makes no run folder, so the fixture fails.
        run(*flags, "--dry-run", method=method)
    output = capsys.readouterr().out
    assert str(refused.value) in output.partition("missing or wrong:")[2] and "nothing is missing" not in output
    assert list(tmp_path.rglob("*")) == before


def test_resume_refuses_changed_training_data(run, photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "copy")
    with ctrl_c("train_epoch", epoch=1):
        run(dataset=str(copy))
    (folder,) = (file.parent for file in (tmp_path / "runs").glob("**/data.json"))
    told = {"classes": ["n01", "n02", "n03"], "training images": 90, "evaluation images": 21}
    told["training images of each class"] = [30, 30, 30]
    assert told.items() <= json.loads((folder / "data.json").read_text()).items()
    write_images(copy / "train" / "n01", 12, first=500)
    with refuses("90 training images there, 102 here"):
        run(dataset=str(copy))
    for image in (copy / "train" / "n01").glob("n01_5??.JPEG"):
        image.unlink()
    for split in ("train", "val"):
        (copy / split / "n01").rename(copy / split / "n99")
    with refuses("only in one of them: n01, n99"):
        main(["--resume", str(folder)])


def test_long_tail_is_reported_in_groups(run, photos, tmp_path):
    lines = [f"train/{name}/{name}_{number % 30}.JPEG {label}" for label, (name, count) in
             enumerate((("n01", 110), ("n02", 30), ("n03", 5))) for number in range(count)]  # fmt: skip
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    folder = run("--train-list", str(tmp_path / "train.txt"), "--contraction", "0", "--epochs", "1")
    for accuracy in result(folder)["last"].values():
        groups = [accuracy[name] for name in ("many", "medium", "few")]
        # Each class has seven evaluation images.
        assert accuracy["top1"] == pytest.approx(sum(groups) / 3, abs=0.01)
    teacher = json.loads((folder / "environment.json").read_text())["teacher"]
    assert {"many", "medium", "few"} <= set(teacher)


def test_broken_images_are_counted_in_the_metrics(run, photos, tmp_path, capsys):
    copy = Path(shutil.copytree(photos, tmp_path / "copy"))
    (copy / "train" / "n01" / "n01_0.JPEG").write_text("no image")
    (copy / "val" / "n01" / ".DS_Store").write_text("no image")
    folder = run(dataset=str(copy), runs="broken")
    assert "ignored    1 hidden\n" in capsys.readouterr().out
    counted = [record.get("broken_images", 0) for record in read_metrics(folder) if record["kind"] == "train"]
    # An epoch of 5 batches of 16 omits 10 of the 90 images, perhaps the broken one.
    assert set(counted) <= {0, 1} and sum(counted) >= 1


def test_broken_images_of_an_interrupted_epoch_are_counted_once(photos, tmp_path):
    copy = Path(shutil.copytree(photos, tmp_path / "copy"))
    for number in range(4):
        (copy / "train" / "n01" / f"n01_{number}.JPEG").write_text("no image")
    flags = ["classification", *COMMON, "--epochs", "1", "--checkpoint-steps", "1", "--dataset", str(copy)]

    def counted(name: str) -> int:
        main([*flags, "--out", str(tmp_path / name)])
        (record,) = (record for record in read_metrics(tmp_path / name) if record["kind"] == "train")
        return record["broken_images"]

    with ctrl_c("train_step", step=4):
        main([*flags, "--out", str(tmp_path / "parts")])
    assert counted("parts") == counted("whole") >= 1


def test_two_processes_train_and_count_as_one_from_shards(run, unlabeled, teacher, tmp_path):
    alone = run(*unlabeled, runs="one")
    flags = ["gendd", *COMMON, *HEAD, *unlabeled, "--teacher", TOY, "--teacher-weights", str(teacher)]
    run_in_two(lambda: main([*flags, "--runs", str(tmp_path / "two")]), tmp_path)
    together = Path(str(alone).replace(f"{os.sep}one{os.sep}", f"{os.sep}two{os.sep}"))
    ours, theirs = (read_metrics(folder) for folder in (alone, together))
    assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], abs=1e-6)
    assert [record["kind"] for record in ours] == [record["kind"] for record in theirs]
    assert_same_weights(alone, together, rtol=1e-3, atol=1e-4)
    # 21 evaluation images fit in one batch of one process, and are counted once.
    assert result(together)["images"] == 21


def test_check_data_starts_no_run(photos, tmp_path, capsys):
    main(["classification", *COMMON, "--dataset", str(photos), "--runs", str(tmp_path), "--check-data"])
    assert "90 images to train on, 3 classes of 30 to 30" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_check_data_compares_photographs_with_those_of_the_run(photos, tmp_path):
    data = shutil.copytree(photos, tmp_path / "photos")
    flags = ["classification", *COMMON, "--epochs", "1", "--dataset", str(data), "--runs", str(tmp_path / "runs")]
    image = data / "train" / "n02" / "n02_3.JPEG"
    content = image.read_bytes()
    image.write_bytes(content + b"a")
    main(flags)
    image.write_bytes(content + b"b")
    with refuses("but with other contents"):
        main([*flags, "--check-data"])


def test_out_of_memory_error_names_a_remedy(run, monkeypatch):
    def no_room(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with (
        monkeypatch.context() as patch,
        refuses("micro-batch of 16 images .* --grad-accum-steps 2 to halve"),
    ):
        patch.setattr("gendd.methods.gendd.GenDDTask.forward", no_room)
        run()
