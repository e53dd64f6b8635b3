"""The reference path of the benchmark computes what the fast path computes; what travels to a GPU arrives whole."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gendd import head as head_module
from gendd.errors import UserError
from gendd.head import SplitTokenHead
from gendd_cifar.sources import read_source

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import allocator  # noqa: E402
import gpu_parts  # noqa: E402
import gpu_wheels  # noqa: E402
import input_imagenet  # noqa: E402
import methods  # noqa: E402
import on_paper  # noqa: E402
import reference  # noqa: E402
import scaling  # noqa: E402
import suite  # noqa: E402
import train_step  # noqa: E402
from measure import record, take_turns  # noqa: E402
from read_out import build_student  # noqa: E402
from reference import head_loss  # noqa: E402


@pytest.mark.parametrize("rows", [64, 10**6])
def test_reference_and_fast_path_agree_in_loss_and_gradients(monkeypatch, rows):
    """On more draws than there are timesteps, in parts and in one."""
    monkeypatch.setattr(head_module, "ROWS_AT_ONCE", rows)
    torch.manual_seed(0)
    head = SplitTokenHead(48, 12, token_dim=16, width=32, repeats=60)
    for parameter in head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    z, target = torch.randn(6, 12, requires_grad=True), torch.randn(6, 48)
    draws = head.draw(6)
    fast, plain = head(z, target, draws)["loss"], head_loss(head, z, target, draws)
    torch.testing.assert_close(fast, plain)
    inputs = [z, *head.parameters()]
    for one, other in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_reference_and_fast_path_read_the_same_logits():
    torch.manual_seed(0)
    student = build_student("resnet8", torch.nn.Linear(48, 5), token_dim=16, width=32)
    for parameter in student.head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    images, shape = torch.randn(3, 3, 32, 32), (3, 2, 3, 16)
    noise = torch.Generator().manual_seed(1)
    plain = reference.read_out(student, images, 6, 2, lambda: torch.randn(shape, generator=noise))
    settings = {"sampler": "ancestral", "steps": 6, "num_samples": 2, "guidance": 2.0}
    fast = student.read_out(images, torch.Generator().manual_seed(1), **settings)["head"]
    # The path of an untrained head ends at large values.
    torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-3 * fast.abs().max().item())


def test_works_take_turns_and_the_first_round_is_not_counted():
    order, clock = [], iter(range(1000))
    times = take_turns([lambda: order.append("a"), lambda: order.append("b")], 3, lambda: next(clock))
    assert "".join(order) == "baabbaab"
    assert times == [[1, 1, 1], [1, 1, 1]]


def test_a_record_holds_medians_and_spread():
    line = record("step/a-b", "s", [4.0, 6.0, 5.0], [1.0, 3.0, 2.0], [4.0, 2.0, 2.5], 0.5)
    assert (line["reference"], line["ours"], line["ratio"], line["spread"], line["n"]) == (5, 2, 2.5, [2, 4], 3)


def test_step_bench_reports_every_work_of_its_own(monkeypatch):
    """On a small pair and batch: names, units and both paths' losses are those that the suite and reader expect."""
    monkeypatch.setattr(train_step, "BATCH", 2)
    monkeypatch.setattr(train_step, "WIDTH", 32)
    monkeypatch.setattr(train_step, "matrix_rate", lambda dtype: 1e12)
    monkeypatch.setattr(train_step, "PUBLISHED", train_step.PUBLISHED | {"repeats": 2})
    pair = ("resnet8", "resnet8")
    reference, _ = train_step.build("reference", pair, **train_step.PUBLISHED)
    ours, _ = train_step.build("ours", pair, **train_step.PUBLISHED)
    assert ours().item() == pytest.approx(reference().item(), rel=0.01)
    works = {"step": train_step.PUBLISHED, "step_equal_variance": train_step.EQUAL_VARIANCE | {"repeats": 4}}
    found = train_step.step_records(pair, works, rounds=1, compiles=False)
    assert [row["work"] for row in found] == ["step/resnet8-resnet8", "step_equal_variance/resnet8-resnet8"]
    for row in found:
        assert row["unit"] == "images/s" and row["n"] == 1 and row["share_of_limit"] > 0
        assert row["ratio"] == row["ratios"]["eager"] == pytest.approx(row["ours"] / row["reference"])
        assert row["possible_ratio"] * row["share_of_limit"] == pytest.approx(row["ratio"])


def test_suite_leaves_its_figures_where_it_is_told_and_need_not_compile(tmp_path, monkeypatch, capsys):
    asked = []
    found = [record("step/a-b", "s", [4.0], [2.0], [2.0], 0.5)]
    monkeypatch.setattr(suite.train_step, "records", lambda compiles: asked.append(compiles) or found)
    for module in (suite.read_out, suite.input_cifar):
        monkeypatch.setattr(module, "records", lambda: [])
    monkeypatch.setattr(suite, "limits", lambda: {"memory_bytes_per_second": 1e9})
    for flags in ([], ["--no-compile"]):
        monkeypatch.setattr(sys, "argv", ["suite.py", "--folder", str(tmp_path), *flags])
        suite.main()
    assert asked == [True, False]
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["results"] == found and str(file) in capsys.readouterr().out


def test_views_of_the_input_path_are_those_of_its_reference():
    photographs = input_imagenet.read(None, 2)
    for name, timms, ours in input_imagenet.views(photographs):
        for i in range(len(photographs)):
            assert input_imagenet.apart(timms(i), ours(i)) < 0.3, name


def test_scaling_reads_the_rates_of_a_training(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "toys"))
    epochs = scaling.train(scaling.Config("toy:network", "toy:network", epochs=2), processes=2, threads=1)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(epoch["images_per_second"] > 0 for epoch in epochs)


def test_allocator_bench_measures_a_training(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "toys"))
    cost = allocator.train(allocator.Config("toy:network", epochs=2), allocator.STARTS["freed blocks kept"])
    assert cost.images_per_second > 0 and cost.system_seconds > 0 and cost.peak_megabytes > 100


def test_reading_by_the_head_costs_a_tenth_more_than_by_the_probe_at_most():
    step, costs = methods.build("gendd")
    step(True)
    costs = dict(costs)
    assert costs["probe"] < costs["head"] < 1.1 * costs["probe"]


def test_operations_on_paper_are_those_of_the_definition():
    """Of the plain path: what its products cost, counted by hand; of the fast one: less."""
    images, feature, condition, width, token = 8, 128, 32, 1024, 64
    plain, ours, parameters = on_paper.head_costs(feature, condition, images)
    rows = on_paper.TREE.paper["repeats"] * feature // token
    # Multiply-adds of a row, but for the input's; the input's has no gradient toward its noise.
    layers = condition * width + 256 * width + width**2 + 3 * 5 * width**2 + 2 * width**2 + width * 2 * token
    assert plain.flops == pytest.approx(2 * rows * (3 * layers + 2 * token * width), rel=0.02)
    assert ours.flops < plain.flops / 2 and ours.bytes < plain.bytes
    assert parameters > 15 * width**2


@pytest.fixture
def packed(tmp_path):
    """A folder of images, and the same packed in two parts with a teacher's file."""
    images, noise = tmp_path / "toys", np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            (images / split / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(noise.integers(256, size=(32, 32, 3), dtype=np.uint8))
                picture.save(images / split / name / f"{number}.png")
    folder = tmp_path / "gpu"
    (folder / "packing").mkdir(parents=True)
    (tmp_path / "teacher").write_bytes(bytes(995_000))
    gpu_parts.pack(str(folder), str(images), str(tmp_path / "teacher"), "1")
    return images, folder


def test_images_arrive_in_parts_as_they_were(packed, tmp_path):
    images, folder = packed
    assert sorted(path.name for path in folder.iterdir()) == ["part-1", "part-2"]
    assert (folder / "part-1" / "teacher.pth").stat().st_size == 995_000
    (folder / "part-2").rename(tmp_path / "on its way")
    with pytest.raises(UserError, match="not here yet"):
        gpu_parts.unpack(str(folder))
    (tmp_path / "on its way").rename(folder / "part-2")
    gpu_parts.unpack(str(folder))
    for split in ("train", "test"):
        one, other = (read_source(str(place), "", split, 32).images for place in (images, folder / "toys"))
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_parts_hold_no_more_than_they_may():
    sizes = {"images/b": 3, "images/a": 4, "wheels/w": 2, "teacher.pth": 2}
    assert gpu_parts.split(sizes, 5) == [["teacher.pth", "wheels/w"], ["images/a"], ["images/b"]]


def test_gpu_machines_wheels_are_those_that_it_lacks(tmp_path):
    """Or that it has in another version."""
    names = {line.split("==")[0] for line in gpu_wheels.needed(["torch"])}
    assert {"tyro", "typeguard", "timm", "pytest"} <= names and not names & {"torch", "sympy", "gendd"}
    wheels = tmp_path / "part-1" / "wheels"
    wheels.mkdir(parents=True)
    brought = [f"timm-{version('timm')}-py3-none-any.whl", "no_such_package-1-py3-none-any.whl", "tqdm-0-none-any.whl"]
    for name in brought:
        (wheels / name).touch()
    assert gpu_wheels.lacking(tmp_path) == [str(wheels / name) for name in sorted(brought[1:])]


def test_collected_are_results_and_the_checkpoints_that_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_parts, "PIECE", 300_000)
    runs = tmp_path / "runs"
    for method, complete in (("classification", False), ("gendd", False), ("kd", True), ("pretrain", True)):
        run = runs / method / "0"
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints" / "last.pt").write_bytes(bytes(400_000))
        (run / "config.json").write_text(json.dumps({"method": method}))
        if complete:
            (run / "result.json").write_text("{}")
    (tmp_path / "runs.tar.7").touch()
    gpu_parts.collect(str(runs), str(tmp_path), "gendd kd classification", "1")
    pieces = sorted(tmp_path.glob("runs.tar.*"))
    assert [piece.suffix for piece in pieces] == [".0", ".1", ".2"]
    assert all(piece.stat().st_size <= 300_000 for piece in pieces)
    (tmp_path / "whole.tar").write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(tmp_path / "whole.tar") as archive:
        names = archive.getnames()
    assert [name for name in names if name.endswith(".pt")] == [
        f"runs/{method}/0/checkpoints/last.pt" for method in ("pretrain", "gendd")
    ]
    assert "runs/kd/0/result.json" in names and "runs/classification/0/config.json" in names
    assert "classification/0: no room" in capsys.readouterr().out


def test_gpu_script_trains_and_goes_on_where_its_folder_was_lost(packed):
    _, folder = packed
    command = ["bash", "bench/gpu.sh", "run", folder, "--batch-size", "4", "--eval-every", "1"]
    command += ["--warmup-epochs", "0"]
    settings = {"STEPS": "train", "METHODS": "classification", "EPOCHS": "1", "VENV": sys.prefix}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **settings}

    def log() -> str:
        subprocess.run(command, cwd=Path(__file__).parents[1], env=environment, check=True)
        return (folder / "runs" / "logs" / "classification-0.txt").read_text()

    assert "epoch   1/1  final" in log()
    run = folder / "runs" / "toys" / "resnet20" / "classification" / "0"
    config = json.loads((run / "config.json").read_text())
    assert (config["optimizer"], config["schedule"], config["decay"]) == ("muon", "cosine", "matrices")
    shutil.rmtree(folder / "runs")
    again = log()
    assert "is complete" in again and "final" not in again
    assert (run / "student.safetensors").exists() and not (run / "checkpoints").exists()
