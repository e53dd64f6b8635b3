"""Training from reinforced shards: the numbers of a teacher in the loop, without it, in any number of processes."""

import contextlib
import json
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lines import refuses
from photos import MEAN, STD, open_evaluated, open_photos
from programs import IMAGENET, evaluate_imagenet, imagenet_config, train_imagenet
from small_runs import assert_same_weights, ctrl_c, timeless_metrics
from toy import own

import gendd
from gendd.distillation.stored_teacher import StoredTeacher
from gendd.distillation.teacher import FrozenTeacher
from gendd.runs.metrics import read_metrics
from gendd_imagenet import loading
from gendd_imagenet.make_shards import add_file
from gendd_imagenet.reinforce import reinforce
from gendd_imagenet.stored_views import ENDING

STUDENT = ["--student", "toy:network", "--batch-size", "16", "--epochs", "4", "--warmup-epochs", "0", "--eval-every",
           "1", "--precision", "fp32", "--workers", "0", "--optimizer", "sgd", "--lr", "1e-2"]  # fmt: skip
HEAD = ["--token-dim", "32", "--width", "16", "--depth", "1", "--repeats", "2", "--sampling-steps", "1"]
FLAGS = ["--teacher", "toy:own", "--views", "3", "--image-size", "32", "--crop-scale", "0.4", "1", "--workers", "0",
         "--images-per-shard", "30", "--auto-augment", "rand-m7-n2", "--precision", "fp32"]  # fmt: skip
DENSE = ["--dense-grid", "2"]


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """Write 90 images in 3 shards with 3 views, at another image size and crop than the default."""
    made = tmp_path_factory.mktemp("shards") / "out"
    reinforce(IMAGENET, [str(photos / "train"), str(made), *FLAGS, *DENSE])
    return made


@pytest.fixture
def run(folder, tmp_path):
    """Return a function that trains from reinforced shards with further flags, and returns the run's folder."""

    def train(*flags: str, runs: str = "runs", images: Path = folder, method: str = "gendd") -> Path:
        head = HEAD if method == "gendd" else HEAD[:4]
        train_imagenet([method, "--images", str(images), *STUDENT, *head, *flags, "--runs", str(tmp_path / runs)])
        (config,) = (tmp_path / runs).glob("*/toy.own_toy.network/*/0/config.json")
        return config.parent

    return train


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(folder) if record["kind"] == "train"]


class InTheLoop(StoredTeacher):
    """A stored teacher that computes what it should read."""

    rounded = True

    def _outputs(self, batch):
        network = own(num_classes=0)
        network.pretrained_cfg = self.model.pretrained_cfg | {"input_size": (3, 32, 32)}
        teacher = FrozenTeacher(network, network, batch.images.device, has_classifier=False, grid=self.grid)
        outputs = teacher.outputs_of(batch.images)
        return outputs.half().float() if self.rounded else outputs


@pytest.mark.parametrize("method", ["gendd", "regression"])
def test_run_equals_the_run_with_its_teacher(run, monkeypatch, method):
    stored = run(*DENSE, runs="stored", method=method)
    monkeypatch.setattr("gendd.runs.networks.StoredTeacher", InTheLoop)
    rounded = run(*DENSE, runs="rounded", method=method)
    assert losses(stored) == pytest.approx(losses(rounded), rel=1e-6)
    assert_same_weights(stored, rounded, rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(InTheLoop, "rounded", False)
    exact = run(*DENSE, runs="exact", method=method)
    assert losses(stored) == pytest.approx(losses(exact), rel=1e-3) and losses(stored) != losses(exact)


def test_epochs_use_the_views_in_turn(run, monkeypatch):
    used = {}
    original = StoredTeacher._outputs

    def noted(teacher, batch):
        for row in original(teacher, batch):
            used.setdefault(tuple(row.tolist()), set()).add(batch.epoch)
        return original(teacher, batch)

    monkeypatch.setattr(StoredTeacher, "_outputs", noted)
    run()
    assert {frozenset(epochs) for epochs in used.values()} <= {frozenset(some) for some in ({1, 4}, {1}, {4}, {2}, {3})}
    assert {1, 4} in used.values() and {2} in used.values() and {3} in used.values()


def test_teacher_is_neither_built_nor_loaded(run, monkeypatch):
    def fail(*arguments, **options):
        raise AssertionError("the teacher was built")

    monkeypatch.setattr("toy.own", fail)
    folder = run(*DENSE)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["teacher"]["tensors_sha256"] and environment["teacher"]["width"] == 64
    assert environment["teacher"]["license"] == "unknown"


def test_resumed_run_equals_an_uninterrupted_one(run):
    whole = run(runs="whole")
    with ctrl_c("train_step", step=13):
        run("--checkpoint-steps", "3", runs="parts")
    parts = run("--workers", "2", runs="parts")
    assert_same_weights(parts, whole, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(whole)


def test_finished_run_needs_neither_teacher_nor_shards(run, folder, tmp_path):
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    trained = run(*DENSE, images=moved)
    last = json.loads((trained / "result.json").read_text())["last"]["head"]
    measured = gendd.evaluate(trained)["head"]
    assert {name: measured[name] for name in last} == pytest.approx(last)
    shutil.rmtree(moved)
    student = gendd.load(trained)
    assert student.predict(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    assert gendd.load(trained / "student.safetensors").backbone


def test_record_gives_the_views_and_the_teacher(run):
    config = json.loads((run() / "config.json").read_text())
    assert config["data"]["crop_scale"] == [0.4, 1.0] and config["data"]["image_size"] == 32
    assert config["data"]["auto_augment"] == "rand-m7-n2" and config["networks"]["teacher"] == "toy:own"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--image-size", "48"], "--image-size 48: --images .* holds features for 32; leave it out"),
        (["--crop-scale", "0.5", "1"], "--crop-scale 0.5 1.0: .* holds features for 0.4 1.0"),
        (["--auto-augment", "rand-m9-n2"], "--auto-augment rand-m9-n2: .* holds features for rand-m7-n2"),
        (["--teacher", "toy:network"], "--teacher toy:network: .* holds features for toy:own"),
        (["--teacher-weights", "random"], "--teacher-weights random: .* leave it out"),
        (["--teacher-feature", "class-token"], "--teacher-feature class-token: .* holds features for pooled"),
        (["--teacher-mean", "0.1", "0.2", "0.3"], "--teacher-mean 0.1 0.2 0.3: .* holds features for"),
        (["--dense-grid", "4"], "--dense-grid 4: .* holds maps with --dense-grid 2"),
        (["--dense-grid", "2", "--dense-layer", "1"], "--dense-layer 1: "),
        (["--mixup", "0.2"], "--mixup 0.2: mixes images"),
        (["--contraction", "0.5"], "--contraction 0.5"),
        (["--holdout", "0.1"], "--holdout 0.1: shards cannot be split"),
        (["--teacher-cache", "cache"], "--teacher-cache cache: does not work with shards"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_conflicts_are_refused_in_one_line(run, flags, words):
    with refuses(words):
        run(*flags)


def test_other_evaluation_images_and_methods_are_refused(run, photos, folder, tmp_path):
    with refuses("--eval-dataset .*: its features are not in"):
        run("--eval-dataset", str(photos))
    with refuses("--images .*: its images are unlabeled, but kl learns from the teacher's classifier"):
        train_imagenet(["kl", "--images", str(folder), *STUDENT, "--runs", str(tmp_path)])
    with refuses("--dataset .*: its images have no labels; name it as --images"):
        train_imagenet(["gendd", "--dataset", str(folder), "--unlabeled", "--teacher", "toy:own", *STUDENT, *HEAD])


def test_evaluation_of_other_images_is_refused(run, photos):
    trained = run("--epochs", "1")
    with refuses("--eval-dataset .*: its features are not in"):
        evaluate_imagenet([str(trained), "--eval-dataset", str(photos)])


def changed(folder: Path, name: str, change) -> None:
    """Rewrite a tar file with changed files: `change` returns the new content, or None to leave it out."""
    with tarfile.open(folder / name) as archive:
        files = [(member, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(folder / name, "w") as archive:
        for number, (member, content) in enumerate(files):
            if (new := change(number, member.name, content)) is not None:
                add_file(archive, member.name, new)


def test_damaged_folders_are_refused(run, folder, tmp_path):
    def flipped(number, name, content):
        last = content[-1] ^ 1
        return content[:-1] + bytes([last]) if name.endswith(ENDING) and number < 20 else content

    def left_out(number, name, content):
        return None if name.endswith(ENDING) else content

    def other_image(number, name, content):
        return content + b"\0" if name.endswith(".jpeg") else content

    for name, change, words in (
        ("00001.tar", flipped, "its features are damaged, or belong to another image"),
        ("00001.tar", left_out, "its features are damaged"),
        ("00001.tar", other_image, "its features are damaged, or belong to another image"),
        ("00000.held-out", flipped, "00000.held-out: .* its features are damaged, or belong to another image"),
    ):
        copy = Path(shutil.copytree(folder, tmp_path / f"{name}-{change.__name__}"))
        changed(copy, name, change)
        with refuses(f"--images .*: {words}" if "held" not in name else words):
            run(images=copy, runs=f"runs-{copy.name}")
    copy = Path(shutil.copytree(folder, tmp_path / "edited"))
    record = json.loads((copy / "reinforced.json").read_text()) | {"interpolation": "bicubic"}
    (copy / "reinforced.json").write_text(json.dumps(record))
    with refuses("its features are damaged, or belong to another image or record"):
        run(images=copy)
    copy = Path(shutil.copytree(folder, tmp_path / "incomplete"))
    (copy / "00001.tar").unlink()
    with refuses("--images .*: 1 of its shards are missing, such as 00001.tar; repeat the command of reinforce"):
        run(images=copy)
    copy = Path(shutil.copytree(folder, tmp_path / "unfinished"))
    (copy / "sizes.json").unlink()
    with refuses("its shards are not complete, as sizes.json is missing; repeat the command of reinforce"):
        run(images=copy)
    (copy / "reinforced.json").write_text("{")
    with refuses("its reinforced.json is damaged"):
        run(images=copy)


def test_views_drawn_by_other_libraries_are_refused(run, monkeypatch):
    """Another version of a library may draw other random numbers."""
    monkeypatch.setattr("gendd_imagenet.images.seeded", lambda *key: contextlib.nullcontext())
    with refuses("is not drawn again with the same crop; use the versions on record: torch"):
        run()


def test_resume_refuses_shards_of_the_same_size(run, folder, photos, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "out"))
    with ctrl_c("train_step", step=7):
        run("--checkpoint-steps", "3", images=copy)
    shutil.rmtree(copy)
    reinforce(IMAGENET, [str(photos / "train"), str(copy), *FLAGS, *DENSE, "--seed", "1"])
    with refuses("as many training images"):
        run("--checkpoint-steps", "3", images=copy)


def test_shards_without_images_are_passed_over(run, photos, tmp_path):
    """Each shard has one image. If that is held out, the shard is empty."""
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for number, path in enumerate(sorted((photos / "train").rglob("*.*"))[:40]):
        shutil.copy(path, images / f"{number}{path.suffix}")
    reinforce(IMAGENET, [str(images), str(out), *FLAGS, "--images-per-shard", "1", "--holdout", "0.3"])
    sizes = [*json.loads((out / "sizes.json").read_text()).values()]
    assert len(sizes) == 40 and 0 in sizes and 16 <= sum(sizes) < 40
    assert len(losses(run(images=out))) == 4


def test_held_out_features_are_those_of_their_images(folder, monkeypatch):
    """Nine images are three batches; the teacher sees them in its own normalization."""
    monkeypatch.setattr(loading, "EVAL_BATCH", 4)
    record, network = json.loads((folder / "reinforced.json").read_text()), own(num_classes=0)
    cfg = {"mean": record["teacher_mean"], "std": record["teacher_std"], "input_size": (3, 32, 32)}
    network.pretrained_cfg, student = cfg, SimpleNamespace(pretrained_cfg={"mean": MEAN, "std": STD})
    teacher = FrozenTeacher(network, student, torch.device("cpu"), has_classifier=False)
    settings = imagenet_config("--images", str(folder), "--student", "toy:network", "--workers", "0")
    batches = list(open_evaluated(settings).batches())
    assert [len(images) for _, images, _ in batches] == [4, 4, 1]
    for _, images, features in batches:
        torch.testing.assert_close(features, teacher.features_of(images), rtol=2e-3, atol=1e-3)
    assert len(torch.cat([features for *_, features in batches]).unique(dim=0)) == 9


@pytest.mark.parametrize("world", [2, 8])
def test_processes_share_the_features_of_a_batch(folder, world):
    settings = imagenet_config("--images", str(folder), "--student", "toy:network", "--workers", "0",
                               "--batch-size", "16")  # fmt: skip
    steps = range(2)
    whole = list(open_photos(settings, 16).batches(steps))
    parts = [list(open_photos(settings, 16, rank, world).batches(steps)) for rank in range(world)]
    for step, batch in enumerate(whole):
        for name in ("outputs", "images"):
            joined = torch.cat([getattr(batches[step], name) for batches in parts])
            torch.testing.assert_close(joined, getattr(batch, name), rtol=0, atol=0)
