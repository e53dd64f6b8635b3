"""The benchmarks run, and their references compute the same as the fast paths."""

import json
import sys
from pathlib import Path

import allocator
import growth
import inference
import input_imagenet
import large_teacher
import methods
import on_paper
import pytest
import reference
import scaling
import short_recipe
import suite
import torch
import train_step
from inference import build_student
from measure import record, take_turns
from reference import head_loss
from safetensors.torch import load_file

from gendd.diffusion import head as head_module
from gendd.diffusion.head import PAPER, SplitTokenHead


@pytest.mark.parametrize("rows", [64, 10**6])
def test_reference_and_fast_path_agree_in_loss_and_gradients(monkeypatch, rows):
    """There are more draws than timesteps, in several parts or in one."""
    monkeypatch.setattr(head_module, "ROWS_AT_ONCE", rows)
    torch.manual_seed(0)
    head = SplitTokenHead(48, 12, token_dim=16, width=32, **PAPER, repeats=60)
    for parameter in head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    z, target = torch.randn(6, 12, requires_grad=True), torch.randn(6, 48)
    draws = head.draw(6)
    fast, plain = head(z, target, draws)["loss"], head_loss(head, z, target, draws)
    torch.testing.assert_close(fast, plain)
    inputs = [z, *head.parameters()]
    for one, other in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(plain, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_reference_and_fast_path_agree_in_logits():
    torch.manual_seed(0)
    student = build_student("resnet8", torch.nn.Linear(48, 5), token_dim=16, width=32, **PAPER)
    for parameter in student.head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    images, shape = torch.randn(3, 3, 32, 32), (3, 2, 3, 16)
    noise = torch.Generator().manual_seed(1)
    plain = reference.head_logits(student, images, 6, 2, lambda: torch.randn(shape, generator=noise))
    settings = {"sampler": "ancestral", "steps": 6, "num_samples": 2, "guidance": 2.0}
    fast = student.outputs(images, torch.Generator().manual_seed(1), **settings)["head"]
    # Sampling with an untrained head ends at large values.
    torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-3 * fast.abs().max().item())


def test_take_turns_alternates_and_skips_first_round():
    order, clock = [], iter(range(1000))
    times = take_turns([lambda: order.append("a"), lambda: order.append("b")], 3, lambda: next(clock))
    assert "".join(order) == "baabbaab"
    assert times == [[1, 1, 1], [1, 1, 1]]


def test_record_holds_medians_and_spread():
    line = record("step/a-b", "s", [4.0, 6.0, 5.0], [1.0, 3.0, 2.0], [4.0, 2.0, 2.5], 0.5)
    assert (line["reference"], line["ours"], line["ratio"], line["spread"], line["n"]) == (5, 2, 2.5, [2, 4], 3)


def test_step_bench_reports_every_benchmark(monkeypatch):
    """Records of a small pair have names, units and ratios, and both paths have the same loss."""
    monkeypatch.setattr(train_step, "BATCH", 2)
    monkeypatch.setattr(train_step, "WIDTH", 32)
    monkeypatch.setattr(train_step, "project_rate", lambda: 1e12)
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


def test_inference_bench_reports_paper_head_and_default_head(monkeypatch):
    sizes = {"IMAGES": 4, "EVAL_BATCH": 2, "ROUNDS": 1, "WIDTH": 32, "REFERENCE_IMAGES": {"cpu": 1}}
    for name, value in sizes.items():
        monkeypatch.setattr(inference, name, value)
    monkeypatch.setattr(inference, "the_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(inference, "project_rate", lambda: 1e12)
    monkeypatch.setitem(inference.FAMILY.paper, "sampling_steps", 2)
    found = inference.records()
    works = ["inference/10000", "inference_over_backbone", "inference_default/10000", "inference_default_over_backbone"]
    assert [row["work"] for row in found] == works
    assert all(row["ours"] > 0 and row["n"] == 1 for row in found)


def test_growth_bench_draws_picture(monkeypatch, tmp_path, capsys):
    panels = {name: {f"{name} {i}": (name, (1, 2)) for i in range(4)} for name in ("batch", "steps")}
    for name, value in {"TRAINING": panels["batch"], "INFERENCE": panels["steps"], "IMAGES": 2, "CALLS": 1}.items():
        monkeypatch.setattr(growth, name, value)
    monkeypatch.setattr(growth, "FOLDER", tmp_path)
    growth.main()
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    assert "ms for inference on 2 images, steps 3: 1: " in capsys.readouterr().out


def test_bench_suite_writes_results_without_compiling(tmp_path, monkeypatch, capsys):
    asked = []
    found = [record("step/a-b", "s", [4.0], [2.0], [2.0], 0.5)]
    monkeypatch.setattr(suite.train_step, "records", lambda compiles: asked.append(compiles) or found)
    for module in (suite.inference, suite.short_recipe, suite.input_cifar):
        monkeypatch.setattr(module, "records", lambda: [])
    monkeypatch.setattr(suite, "limits", lambda: {"memory_bytes_per_second": 1e9})
    for flags in ([], ["--no-compile"]):
        monkeypatch.setattr(sys, "argv", ["suite.py", "--folder", str(tmp_path), *flags])
        suite.main()
    assert asked == [True, False]
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text())["results"] == found and str(file) in capsys.readouterr().out


def test_views_of_input_path_match_reference():
    photographs = input_imagenet.read(None, 2)
    for name, timms, ours in input_imagenet.views(photographs):
        for i in range(len(photographs)):
            assert input_imagenet.mean_difference(timms(i), ours(i)) < 0.3, name


def test_scaling_reads_the_rates_of_a_training(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "toys"))
    epochs = scaling.train(scaling.Config("toy:network", "toy:network", epochs=2), processes=2, threads=1)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(epoch["images_per_second"] > 0 for epoch in epochs)


def test_allocator_bench_measures_a_training(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "toys"))
    cost = allocator.train(allocator.Config("toy:network", epochs=2), allocator.STARTS["freed blocks kept"])
    assert cost.images_per_second > 0 and cost.system_seconds > 0 and cost.peak_megabytes > 100


def test_large_teacher_bench_writes_weights_of_each_shape(monkeypatch, tmp_path):
    monkeypatch.setattr(large_teacher, "BLOCK", 4)
    shapes = {"a.weight": (3, 5), "a.bias": (3,)}
    large_teacher.write(tmp_path / "weights.safetensors", shapes)
    found = load_file(tmp_path / "weights.safetensors")
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes
    assert all(value.dtype == torch.bfloat16 and 0 < value.abs().max() < 1 for value in found.values())
    assert large_teacher.memory("VmHWM") >= large_teacher.memory("RssAnon") > 0


def test_short_recipe_bench_compares_with_timms_muon(monkeypatch):
    for name, value in {"BATCH": 4, "STEPS": 1, "IMAGES": 50, "METHODS": {"kd": {}}}.items():
        monkeypatch.setattr(short_recipe, name, value)
    plain, ours = (short_recipe.operators(short_recipe.build("kd", reference)) for reference in (True, False))
    assert ours.working < ours.total < plain.total / 1.5
    (row,) = short_recipe.records(rounds=1)
    assert row["work"] == "short_recipe/kd/eager" and row["ours"] > 0 and row["n"] == 1


def test_head_inference_costs_at_most_a_tenth_more_than_probe():
    step, costs = methods.build(*methods.ROWS["gendd"])
    step(True)
    costs = dict(costs)
    assert costs["probe"] < costs["head"] < 1.1 * costs["probe"]


def test_counted_operations_match_hand_count():
    """The reference costs as many operations as counted by hand; the fast path costs fewer."""
    images, feature, condition, width, token = 8, 128, 32, 1024, 64
    plain, ours, parameters = on_paper.head_costs(feature, condition, images)
    rows = on_paper.FAMILY.paper["repeats"] * feature // token
    # Multiply-adds per row without the input layer, which needs no gradient toward its noise.
    layers = condition * width + 256 * width + width**2 + 3 * 5 * width**2 + 2 * width**2 + width * 2 * token
    assert plain.flops == pytest.approx(2 * rows * (3 * layers + 2 * token * width), rel=0.02)
    assert ours.flops < plain.flops / 2 and ours.bytes < plain.bytes
    assert parameters > 15 * width**2
