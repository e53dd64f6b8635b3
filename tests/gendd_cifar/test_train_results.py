"""Results of the train program on the digits with toy networks."""

import dataclasses
import json

import pytest
import torch
from lines import refuses
from programs import evaluate_cifar as evaluate
from programs import train_cifar as main
from small_runs import (
    TOY,
    assert_same_weights,
    timeless_metrics,
    weights,
)

from gendd.runs.metrics import read_metrics
from gendd.training.loop import Training
from gendd_cifar.data import TrainingImages


def test_teacher_learns(teacher):
    """The toy network is weak, but far above chance."""
    assert json.loads((teacher / "result.json").read_text())["last"]["classifier"]["top1"] > 40


def test_run_folder_holds_everything(whole, teacher):
    for name in ("config.json", "data.json", "environment.json", "metrics.jsonl", "result.json", "student.safetensors",
                 "features.safetensors", "checkpoints/last.pt", "checkpoints/best.pt"):  # fmt: skip
        assert (whole / name).exists(), name
    assert list((whole / "tensorboard").iterdir())
    environment = json.loads((whole / "environment.json").read_text())
    measured = json.loads((teacher / "result.json").read_text())["last"]["classifier"]
    assert environment["teacher"]["top1"] == pytest.approx(measured["top1"], abs=1e-3)
    assert len(environment["teacher"]["sha256"]) == 64
    result = json.loads((whole / "result.json").read_text())
    assert list(result["last"]) == ["head", "probe"]
    assert result["best"]["split"] == "test" and result["best"]["images"] == 599
    head, probe = result["outputs"]["head"], result["outputs"]["probe"]
    assert {name: probe[name] for name in ("parameters", "flops")} == result["student"]
    assert head["parameters"] > probe["parameters"] and head["flops"] > probe["flops"]
    for rate in (head["images_per_second"], probe["images_per_second"]):
        assert 0 < rate["min"] <= rate["median"] <= rate["max"] and rate["batches"] == 3
    kinds = [(record["kind"], record["epoch"]) for record in read_metrics(whole)]
    assert kinds == [("train", 1), ("eval", 1), ("train", 2), ("eval", 2), ("train", 3), ("eval", 3), ("final", 3)]


def test_run_from_config_file_equals_its_run(train, tmp_path, capsys):
    run = train("--epochs", "1")
    file, moved = str(run / "config.json"), ["--runs", str(tmp_path / "again")]
    plans = []
    for command in (["--config", file], ["gendd", "--config", file]):
        capsys.readouterr()
        main([*command, "--dry-run"])
        plans.append(capsys.readouterr().out)
    train("--epochs", "1", "--dry-run")
    assert plans == [capsys.readouterr().out] * 2
    main(["--config", file, *moved])
    again = train.folder("again")
    changed = (run / "config.json").read_text().replace(str(tmp_path / "runs"), moved[1])
    assert (again / "config.json").read_text() == changed
    assert_same_weights(run, again, rtol=0, atol=0)
    assert timeless_metrics(again) == timeless_metrics(run)


def test_other_seed_gives_other_weights(train, whole):
    train("--seed", "1")
    first, second = weights(whole), weights(train.folder().parent / "1")
    assert not torch.equal(first["backbone.convolution.weight"], second["backbone.convolution.weight"])


def test_gradient_accumulation_equals_the_whole_batch(train, whole):
    parts = train("--grad-accum-steps", "2")
    assert_same_weights(whole, parts, rtol=1e-3, atol=1e-4)
    losses = [[record["loss"] for record in read_metrics(run) if record["kind"] == "train"] for run in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("method", ["kd", "dkd", "ikl", "dist", "feature", "srd", "vkd", "simkd", "regression"])
def test_method_learns_and_its_run_is_evaluated(train, method, capsys):
    options = {
        "dkd": ["--distill-warmup-epochs", "0"],
        "ikl": ["--distill-warmup-epochs", "0"],
        "regression": ["--feature-mixup", "0", "--width", "64", "--trunk-depth", "0"],
    }
    run = train("--lr", "1e-2", *options.get(method, []), method=method)
    losses = [record["loss"] for record in read_metrics(run) if record["kind"] == "train"]
    assert losses[-1] < losses[0]
    last = json.loads((run / "result.json").read_text())["last"]
    top1 = {name: accuracy["top1"] for name, accuracy in last.items()}
    # SimKD averages over all positions, while the toy's feature concatenates sixteen.
    assert next(iter(top1.values())) > (0 if method == "simkd" else 25), "chance is a tenth"
    capsys.readouterr()
    files = [] if method == "regression" else [run / "checkpoints" / "last.pt"]
    for checkpoint in (run, *files):
        evaluate([str(checkpoint), "--student", TOY, "--teacher", TOY, "--dataset", "digits", "--precision", "fp32"])
        table = capsys.readouterr().out
        assert all(f"| {name} | {accuracy:.2f} |" in table for name, accuracy in top1.items())


def test_nonfinite_loss_stops_before_the_step(train, whole, monkeypatch):
    train_batch = TrainingImages.batch

    def poisoned(self, random):
        batch = train_batch(self, random)
        return dataclasses.replace(batch, images=batch.images * float("nan")) if random.step == 25 else batch

    with (
        monkeypatch.context() as patch,
        refuses("not finite at step 36, or up to 50 steps before; lower --lr"),
    ):
        patch.setattr(TrainingImages, "batch", poisoned)
        train(runs="parts")
    assert_same_weights(whole, train(runs="parts"), rtol=0, atol=0)


@pytest.mark.parametrize("last", [18, 25])
def test_nonfinite_weight_is_named_and_not_saved(train, whole, monkeypatch, last):
    """The loss is still finite if the last step of an epoch, the 18th, breaks a weight."""
    train_step = Training.train_step

    def broken(self, *arguments):
        train_step(self, *arguments)
        if self.step == last - 1:
            dict(self.task.model().named_parameters())["norm.bias"].data[0] = float("nan")

    with monkeypatch.context() as patch, refuses("the loss or the weight .* is not finite at step (18|36),") as told:
        patch.setattr(Training, "train_step", broken)
        train(runs="parts")
    assert last > 18 or "the weight norm.bias is not" in told.value
    assert_same_weights(whole, train(runs="parts"), rtol=0, atol=0)
