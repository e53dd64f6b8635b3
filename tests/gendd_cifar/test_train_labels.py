"""Runs without labels, with few labels, with a long tail, and on unlabeled images."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from lines import refuses
from PIL import Image
from programs import evaluate_cifar as evaluate
from programs import train_cifar as main
from small_runs import (
    COMMON,
    assert_same_weights,
    weights,
)

from gendd.data import split
from gendd_cifar import data
from gendd_cifar.data import TrainingImages
from gendd_cifar.sources import Images


def test_wrong_labels_change_nothing_without_labels(train, monkeypatch):
    flags = ("--contraction", "0", "--unlabeled", "--epochs", "1")
    honest = train(*flags, runs="honest")
    train_batch = TrainingImages.batch

    def garbage(self, random):
        batch = train_batch(self, random)
        return dataclasses.replace(batch, labels=torch.full_like(batch.labels, 10**9))

    monkeypatch.setattr(TrainingImages, "batch", garbage)
    assert_same_weights(honest, train(*flags, runs="garbage"), rtol=0, atol=0)


def lie(monkeypatch, about: str) -> None:
    """Falsify labels of the labeled images ("known") or of the others; the choice of labeled images stays."""
    read = data.read_source
    source = read("digits", "", "train", 32)
    known = split.labeled(source.images.labels, 0.1)
    lied_about = known if about == "known" else ~known
    labels = torch.where(lied_about, (source.images.labels + 1) % 10, source.images.labels)
    lying = dataclasses.replace(source, images=Images(source.images.images, labels))
    monkeypatch.setattr(data, "read_source", lambda *given: lying if given[2] == "train" else read(*given))
    monkeypatch.setattr(split, "labeled", lambda labels, fraction: known)


@pytest.mark.parametrize("method", ["gendd", "pretrain", "finetune", "kd"])
def test_hidden_labels_change_nothing(train, whole, method, monkeypatch):
    flags = ["--label-fraction", "0.1", "--epochs", "1"]
    flags += ["--student-weights", str(whole)] if method == "finetune" else []
    honest = train(*flags, method=method, runs="honest", data="digits-labels0.1")
    with monkeypatch.context() as patch:
        lie(patch, about="unknown")
        lied_to = train(*flags, method=method, runs="unknown", data="digits-labels0.1")
    assert_same_weights(honest, lied_to, rtol=0, atol=0)
    with monkeypatch.context() as patch:
        lie(patch, about="known")
        lied_to = weights(train(*flags, method=method, runs="known", data="digits-labels0.1"))
    assert any(not torch.equal(value, lied_to[name]) for name, value in weights(honest).items())


def test_plan_prints_the_images_of_a_label_fraction(train, capsys):
    few = ("--label-fraction", "0.1", "--epochs", "1")
    train(*few, data="digits-labels0.1")
    plan = capsys.readouterr().out
    assert (
        ", labels for 10 % of the images, the others without labels\n" in plan and "images     1198 to train on" in plan
    )
    train(*few, method="kd", data="digits-labels0.1")
    plan = capsys.readouterr().out
    labels = split.labeled(data.read_source("digits", "", "train", 8).images.labels, 0.1).sum()
    assert ", labels for 10 % of the images, the others not used\n" in plan
    assert f"images     {labels} to train on" in plan


@pytest.mark.parametrize("method", ["gendd", "pretrain"])
def test_few_labels_share_the_cache_of_all_labels(train, method, tmp_path):
    flags = ["--crop-padding", "0", "--epochs", "2", "--optimizer", "sgd"]
    few, cache = ["--label-fraction", "0.1"], ["--teacher-cache", str(tmp_path / "cache")]
    beside = train(*flags, *few, method=method, runs="beside", data="digits-labels0.1")
    train(*cache, "--crop-padding", "0", "--epochs", "2", runs="all")
    cached = train(*flags, *few, *cache, method=method, runs="cached", data="digits-labels0.1")
    assert_same_weights(cached, beside, rtol=1e-2, atol=1e-3)


def test_long_tail_run_reports_groups_of_classes(train, tmp_path, capsys):
    tail = ["--imbalance", "0.1", "--epochs", "1"]
    main(["classification", *COMMON, "--runs", str(tmp_path / "runs"), *tail])
    teacher = tmp_path / "runs" / "digits-lt0.1" / "toy.network" / "classification" / "0"
    run = train(*tail, "--teacher-weights", str(teacher), data="digits-lt0.1")
    assert "; long-tailed, the last class 0.1 times the first, crops" in capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    assert result["images"] == 599
    for accuracy in result["last"].values():
        assert list(accuracy) == ["top1", "top5", "many", "medium", "few"]


def test_unlabeled_dir_trains_without_labels(train, tmp_path, capsys):
    folder = tmp_path / "strangers"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 40, 30, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    flags = ["--unlabeled-dir", str(folder), "--batch-size", "10", "--contraction", "0"]
    with refuses("--unlabeled-dir .*: its images are unlabeled; train without labels: --unlabeled"):
        train(*flags)
    (folder / "notes.txt").write_text("no image")
    run = train(*flags, "--unlabeled", data="digits-from-strangers")
    assert "ignored    1 .txt\n" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["images"] == 599
    evaluate([str(run), "--precision", "fp32", "--eval-images", "250"])
    assert json.loads((run / "evaluation-250-images.json").read_text())["split"] == "test"


def test_wrong_labels_change_a_labeled_run(train, whole, monkeypatch):
    train_batch = TrainingImages.batch

    def wrong(self, random):
        batch = train_batch(self, random)
        return dataclasses.replace(batch, labels=(batch.labels + 1) % 10)

    monkeypatch.setattr(TrainingImages, "batch", wrong)
    wrong_run = train(runs="wrong")
    assert not torch.equal(
        weights(wrong_run)["backbone.convolution.weight"], weights(whole)["backbone.convolution.weight"]
    )
