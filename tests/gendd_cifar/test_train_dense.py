"""Training with the dense term: with and without a cache, resumed, in two processes, and from Python."""

import json

import numpy as np
import pytest
import torch
from forked import run_in_two
from lines import refuses
from PIL import Image
from programs import train_cifar
from safetensors.torch import load_file
from small_runs import DENSE, GENDD, assert_same_weights, ctrl_c, timeless_metrics, weights

import gendd
from gendd.core.distributed import World
from gendd.core.errors import UserError
from gendd.core.seeding import BatchPlan
from gendd.evaluation.segmentation import fit_dense_probe, intersections_and_unions
from gendd.programs.dense_probe import dense_probe, maps_of
from gendd.programs.main import main
from gendd.runs.metrics import read_metrics
from gendd_cifar.family import FAMILY as CIFAR


@pytest.mark.parametrize("method", ["gendd", "regression", "kd", "dkd", "kd-head"])
def test_dense_loss_falls(train, method):
    run = train(*DENSE, "--lr", "0.01", method=method)
    losses = [record["dense_loss"] for record in read_metrics(run) if "dense_loss" in record]
    assert len(losses) == 3 and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("method", ["kd", "kd-head"])
def test_loss_has_the_dense_loss_with_its_weight(train, method):
    run = train(*DENSE, "--dense-weight", "0.5", "--epochs", "1", method=method)
    (record,) = (record for record in read_metrics(run) if "dense_loss" in record)
    expected = record["task_loss"] + record["kd_loss"] + record.get("probe_loss", 0) + 0.5 * record["dense_loss"]
    assert record["loss"] == pytest.approx(expected, rel=1e-4)


def test_killed_dense_run_equals_an_uninterrupted_one(train, dense):
    with ctrl_c("train_step", step=25):
        train(*DENSE, runs="parts")
    parts = train(*DENSE, runs="parts")
    assert_same_weights(dense, parts, rtol=0, atol=0)
    assert timeless_metrics(parts) == timeless_metrics(dense)


def test_two_processes_train_the_dense_head_as_one(dense, teacher, tmp_path):
    out = tmp_path / "together"
    words = [*GENDD, "--teacher-weights", str(teacher), *DENSE, "--out", str(out)]
    run_in_two(lambda: train_cifar(words), tmp_path)
    assert_same_weights(dense, out, rtol=1e-3, atol=1e-4)


def test_cached_maps_train_the_same_student(train, tmp_path):
    cache = ["--teacher-cache", str(tmp_path / "cache"), "--cached-views", "1"]
    filled = train(*DENSE, *cache, runs="filled")
    stored = train(*DENSE, *cache, runs="stored")
    assert_same_weights(filled, stored, rtol=0, atol=0)
    computed = [r["dense_loss"] for r in read_metrics(train(*DENSE, runs="computed")) if "dense_loss" in r]
    cached = [r["dense_loss"] for r in read_metrics(stored) if "dense_loss" in r]
    assert cached == pytest.approx(computed, rel=0.1)
    train("--dense-grid", "3", *cache, "--cached-maps", "int8", runs="other")
    names = sorted({path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()})
    assert names == ["cache.json", "map2", "map3", "view"]
    with refuses("--cached-maps int8: does nothing without --teacher-cache and --dense-grid; leave it out"):
        train(*cache, "--cached-maps", "int8", runs="none")


def test_finetuning_a_dense_run_leaves_its_dense_head_out(train, dense):
    flags = ["--student-weights", str(dense), "--epochs", "1", "--optimizer", "sgd"]
    finetuned = weights(train(*flags, method="finetune"))
    assert torch.equal(finetuned["backbone.convolution.weight"], weights(dense)["backbone.convolution.weight"])
    assert not torch.equal(finetuned["classifier.weight"], weights(dense)["classifier.weight"])
    with refuses("--dense-grid 2: finetune trains only the classifier; leave it out"):
        train(*flags, *DENSE, method="finetune", runs="grid")


@pytest.mark.parametrize("method", ["kd", "kd-head"])
def test_dense_head_does_not_count_in_evaluation(train, method):
    sizes = []
    for flags in ([], DENSE):
        run = train(*flags, "--epochs", "1", runs=f"dense{len(flags)}", method=method)
        outputs = json.loads((run / "result.json").read_text())["outputs"]
        sizes.append({name: output["parameters"] for name, output in outputs.items()})
    assert sizes[0] == sizes[1]
    assert any(name.startswith("dense.") for name in weights(run))
    assert gendd.load(run).dense(torch.randn(3, 3, 32, 32)).shape[2:] == (8, 8)


def test_loaded_run_gives_the_map_in_the_teachers_space(dense, whole):
    run, images = gendd.load(dense), torch.randn(3, 3, 32, 32)
    assert run.dense(images).shape == (3, run.task.dense.head.feature_dim, 8, 8)
    with pytest.raises(UserError, match="does not have a dense head; train with `dense_grid`, such as 4"):
        gendd.load(whole).dense(images)


def test_networks_without_a_map_are_refused(train):
    with refuses("--dense-layer 3: ToyNetwork gives only its last map; leave it out"):
        train(*DENSE, "--dense-layer", "3", runs="layer")


def test_grid_finer_than_both_maps_is_refused(train):
    maps = "the student's map has 8x8 locations, and the teacher's 8x8"
    for flags in ([], ["--dry-run"]):
        with refuses(f"--dense-grid 9: {maps}; choose at most 8"):
            train("--dense-grid", "9", *flags)


@pytest.mark.parametrize("method", ["gendd", "kd"])
def test_dense_options_without_a_grid_are_refused(method, train):
    with refuses("--dense-draws 2: does nothing without a dense term; set --dense-grid, such as 4"):
        train("--dense-draws", "2", method=method)


def test_dense_probe_measures_student_and_teacher(dense, tmp_path, capsys, monkeypatch):
    """Bright squares on dark noise: each location's feature shows whether it is inside a square."""
    random = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / "squares" / name).mkdir(parents=True)
    for number in range(40):
        top, left = random.integers(0, 16, 2)
        mask = np.zeros((32, 32), np.uint8)
        mask[top : top + 16, left : left + 16] = 1
        pixels = random.integers(0, 60, (32, 32)) + 180 * mask
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "squares" / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "squares" / "masks" / f"{number}.png")
    fitted: list[int] = []
    scored: list[int] = []
    for name, function, counts in (
        ("fit_dense_probe", fit_dense_probe, fitted),
        ("intersections_and_unions", intersections_and_unions, scored),
    ):
        monkeypatch.setattr(
            f"gendd.programs.dense_probe.{name}",
            lambda images, *rest, function=function, counts=counts: (
                counts.append(len(images)),
                function(images, *rest),
            )[1],
        )
    main("gendd", ["dense-probe", str(dense), str(tmp_path / "squares")])
    assert fitted == [32] * 3 and scored == [8] * 3
    assert "32 images to fit, 8 to evaluate, 2 classes, 32x32 pixels" in capsys.readouterr().out
    found = json.loads((dense / "dense-probe-squares.json").read_text())
    # Chance is below 50 %: the background alone is three quarters of the pixels.
    assert found["mean_iou"].keys() == {"student", "dense", "teacher"}
    assert min(found["mean_iou"].values()) > 70
    (dense / "dense-probe-squares.json").unlink()


def test_dense_probe_reads_the_map_of_each_network(dense):
    """The student is random, so that its map differs from the teacher's."""
    run, images = gendd.load(dense, with_teacher=True, trained=False), torch.randn(2, 3, 32, 32)
    found = {name: maps(images) for name, maps in maps_of(run).items()}
    torch.testing.assert_close(found["student"], run.backbone.forward_features(images))
    torch.testing.assert_close(found["dense"], run.dense(images))
    torch.testing.assert_close(found["teacher"], run.teacher.model.forward_features(images))
    assert not torch.allclose(found["student"], found["teacher"])


def test_dense_probe_names_its_missing_run(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for number in range(5):
            pixels = np.full((8, 8), number % 2, np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    with refuses("^RUN path/to/run: no such file, looked for .*; check the path$"):
        dense_probe(CIFAR, ["path/to/run", str(tmp_path)])


def test_dense_probe_names_its_missing_folder(dense):
    with refuses("FOLDER is missing: give it before the flags"):
        main("gendd", ["dense-probe", str(dense)])


def test_exported_head_leaves_the_dense_head_out(dense, tmp_path):
    run, images = gendd.load(dense), torch.randn(3, 3, 32, 32)
    module = torch.export.load(run.export(tmp_path, to="torch-export", num_images=50)).module()
    assert not [name for name in module.state_dict() if "dense" in name]
    torch.testing.assert_close(module(images), run.predict(images, "head"))
    assert run.model.dense is run.task.dense


def test_report_shows_the_maps_of_teacher_and_student(dense, tmp_path):
    folder = gendd.load(dense).report(tmp_path / "report")
    assert (folder / "maps.png").is_file() and "![Feature maps" in (folder / "report.md").read_text()
    tensors = load_file(dense / "maps.safetensors")
    run = gendd.load(dense, with_teacher=True)
    data = run.family.access.open_evaluation(run.config, BatchPlan(0, 1), World(0, 1, 0, run.device), run.backbone)
    _, images, _ = next(iter(data.batches(6)))
    torch.testing.assert_close(tensors["student"], run.dense(images))
    torch.testing.assert_close(tensors["teacher"], run.teacher.whole_map(images))
    assert run.task.dense.scale is None, "a classifier's map is learned in its own units"
    assert tensors["images"].shape == (6, 3, 96, 96)
