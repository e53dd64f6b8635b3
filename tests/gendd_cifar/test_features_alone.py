"""Teachers without a classifier: distillation of their features, without and with labels."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from lines import refuses
from programs import evaluate_cifar, for_head, train_cifar
from run_folders import change_settings

import gendd
from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.networks.checkpoint import metadata, read_weights
from gendd.programs import probed_features, probes
from gendd.programs.probes import knn, probe, zero_shot
from gendd.runs.metrics import read_metrics
from gendd.training.loop import Training
from gendd_cifar.data import TrainingImages
from gendd_cifar.family import FAMILY

COMMON = ["--dataset", "digits", "--student", "resnet8", "--batch-size", "128", "--hflip", "0", "--precision", "fp32"]
COMMON += ["--image-size", "16", "--crop-padding", "1", "--schedule", "cosine"]
HEAD = ["--width", "32", "--depth", "1", "--trunk-depth", "1", "--repeats", "4", "--contraction", "0"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    root = tmp_path_factory.mktemp("teacher")
    train_cifar(["classification", *COMMON, "--epochs", "8", "--lr", "1e-2", "--runs", str(root)])
    return root / "digits" / "resnet8" / "classification" / "0"


@pytest.fixture(scope="module")
def train(teacher, tmp_path_factory):
    """Return a function: train with flags from the teacher without its classifier, return the folder of the run."""

    def run(*flags: str, runs: str = "runs", method: str = "gendd"):
        root = tmp_path_factory.getbasetemp() / runs
        words = [method, *COMMON, *for_head(method, HEAD), *of_resnet8(teacher)]
        words += ["--epochs", "4", "--lr", "1e-2", "--no-teacher-classifier", "--runs", str(root), *flags]
        train_cifar(words)
        return root / "digits" / "resnet8_resnet8" / method / "0"

    return run


@pytest.fixture(scope="module")
def unlabeled(train):
    return train("--unlabeled", runs="unlabeled")


def of_resnet8(teacher) -> list[str]:
    return ["--teacher", "resnet8", "--teacher-weights", str(teacher)]


@pytest.mark.parametrize("method", ["gendd", "regression"])
def test_features_without_labels_are_compared_to_the_teacher(train, method):
    run = train("--unlabeled", "--eval-every", "1", runs=f"alone-{method}", method=method)
    epochs = [record for record in read_metrics(run) if record["kind"] == "eval"]
    assert set(epochs[-1]["head"]) == set(epochs[-1]["linear"]) == {"cosine", "r2", "neighbors"}
    assert epochs[-1]["head"]["r2"] > max(20, epochs[0]["head"]["r2"])
    result = json.loads((run / "result.json").read_text())
    assert result["best"]["output"] == "head" and result["best"]["cosine"] >= result["last"]["head"]["cosine"] - 1e-6
    assert set(result["outputs"]) == {"head", "linear"}
    plain = safetensors.torch.load_file(run / "student.safetensors")
    assert not any(name.startswith("fc.") for name in plain), "the student has no classifier"


def test_feature_units_come_from_the_training_images(unlabeled):
    """Mean and standard deviation are saved in the checkpoint, and sampling undoes the standardization."""
    tensors = read_weights(unlabeled)
    features = safetensors.torch.load_file(unlabeled / "features.safetensors")
    teacher = features["teacher"]
    assert (tensors["scale.mean"] - teacher.mean(0)).norm() < 0.2 * teacher.mean(0).norm()
    assert 0.5 < (tensors["scale.std"].mean() / teacher.std(0).mean()) < 2
    assert 0.5 < features["generated"].norm(dim=-1).mean() / teacher.norm(dim=-1).mean() < 1.5


def test_unlabeled_training_does_not_use_labels(train, unlabeled, monkeypatch):
    batch = TrainingImages.batch
    garbage = lambda self, random: _with_labels(batch(self, random), 10**9)  # noqa: E731
    monkeypatch.setattr(TrainingImages, "batch", garbage)
    lied_to = train("--unlabeled", runs="lied")
    ours, theirs = read_weights(unlabeled), read_weights(lied_to)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def _with_labels(batch, value):
    return dataclasses.replace(batch, labels=torch.full_like(batch.labels, value))


def test_resumed_unlabeled_run_equals_an_uninterrupted_one(train, unlabeled, monkeypatch):
    evaluate_epoch = Training.evaluate_epoch

    def stop(self):
        if self.epoch == 3:
            raise KeyboardInterrupt
        evaluate_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "evaluate_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train("--unlabeled", "--eval-every", "1", runs="broken")
    resumed = train("--unlabeled", "--eval-every", "1", runs="broken")
    ours, theirs = read_weights(unlabeled), read_weights(resumed)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_with_labels_the_probe_learns_and_the_head_generates(train):
    run = train(runs="labeled")
    last = json.loads((run / "result.json").read_text())["last"]
    assert set(last) == {"probe"} and last["probe"]["top1"] > 30, "chance is a tenth"


def test_evaluate_gives_the_feature_scores_of_training(unlabeled, capsys):
    evaluate_cifar([str(unlabeled)])
    rows = json.loads((unlabeled / "evaluation.json").read_text())["outputs"]
    last = json.loads((unlabeled / "result.json").read_text())["last"]
    for row in rows:
        assert {name: row[name] for name in ("cosine", "r2", "neighbors")} == last[row["output"]]
    assert "| output | cosine % | R2 % | neighbors (chance 1.7 %) % |" in capsys.readouterr().out


def test_unlabeled_run_is_scored_by_knn_and_probe(unlabeled, capsys):
    knn(FAMILY, [str(unlabeled)])
    probe(FAMILY, [str(unlabeled)])
    found = {name: json.loads((unlabeled / f"{name}.json").read_text()) for name in ("knn", "probe")}
    assert found["knn"]["images"] == found["probe"]["images"] == 599
    assert found["knn"]["training images"] == 1198 and found["knn"]["top1"] > 40 and found["probe"]["top1"] > 60
    assert "ECE" in capsys.readouterr().out


def test_saved_features_are_recomputed_only_after_changes(train, monkeypatch):
    run, computed, kept = train("--unlabeled", "--epochs", "1", runs="judged"), [], probed_features.pooled_feature
    count = lambda *arguments: computed.append(len(arguments[1])) or kept(*arguments)  # noqa: E731
    monkeypatch.setattr(probed_features, "pooled_feature", count)

    def judged() -> int:
        """Run k-NN; return the number of images whose features were computed."""
        computed.clear()
        knn(FAMILY, [str(run)])
        return sum(computed)

    assert judged() == 1198 + 599
    first = json.loads((run / "knn.json").read_text())
    (file,) = (run / "features").glob("*-test-backbone.safetensors")
    assert judged() == 250 + 250, "the first batch of each split checks that the images are the same"
    assert json.loads((run / "knn.json").read_text()) == first
    stored = safetensors.torch.load_file(file)
    shifted = {"features": stored["features"].roll(1, 0), "labels": stored["labels"]}
    safetensors.torch.save_file(shifted, file, metadata(file))
    assert judged() == 250 + 599, "the images changed"
    file.write_bytes(b"damaged")
    assert judged() == 250 + 599
    checkpoint = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    checkpoint["epoch"] += 1
    torch.save(checkpoint, run / "checkpoints" / "last.pt")
    assert judged() == 1198 + 599, "the weights changed"


def test_zero_shot_by_classifier_rows_equals_the_head(teacher, tmp_path):
    words = ["gendd", *COMMON, *HEAD, *of_resnet8(teacher), "--epochs", "2", "--lr", "1e-2"]
    train_cifar([*words, "--runs", str(tmp_path)])
    run = tmp_path / "digits" / "resnet8_resnet8" / "gendd" / "0"
    tensors = {name.removeprefix("fc."): value for name, value in read_weights(teacher).items() if "fc." in name}
    safetensors.torch.save_file(tensors, tmp_path / "rows.safetensors")
    zero_shot(FAMILY, [str(run), "--class-vectors", str(tmp_path / "rows.safetensors"), "--likeness", "dot"])
    found = json.loads((run / "zero-shot.json").read_text())
    head = json.loads((run / "result.json").read_text())["last"]["head"]
    assert (found["top1"], found["top5"]) == (head["top1"], head["top5"])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((10, 7), np.float32), r"holds vectors of shape \(10, 7\), the features have 64 numbers"),
        (np.zeros((9, 64), np.float32), "9 vectors, the data set 10 classes"),
        (np.array([{"a": 1}], dtype=object), "allow_pickle"),
    ],
)
def test_unfitting_class_vectors_are_refused(unlabeled, tmp_path, vectors, message):
    np.save(tmp_path / "vectors.npy", vectors, allow_pickle=True)
    with refuses(message) as caught:
        zero_shot(FAMILY, [str(unlabeled), "--class-vectors", str(tmp_path / "vectors.npy")])
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "flags", "message"),
    [
        (
            "kd",
            [],
            "--no-teacher-classifier: kd learns from the classifier; .* gendd and regression with --contraction 0",
        ),
        ("gendd", ["--contraction", "0.5"], "--no-teacher-classifier: gendd learns from the classifier"),
        ("pretrain", ["--unlabeled"], "--no-teacher-classifier: pretrain learns from the classifier"),
    ],
)
def test_method_that_needs_a_classifier_names_alternatives(train, method, flags, message):
    with refuses(message):
        train(*flags, runs="refused", method=method)


def test_token_dim_not_dividing_becomes_the_nearest(train, capsys):
    train("--unlabeled", "--token-dim", "48", "--epochs", "1", runs="tokens")
    assert "1 token of width 64 (48 does not divide 64)" in capsys.readouterr().out


def test_nonfinite_features_are_refused(train, teacher, tmp_path):
    tensors = {name: value.contiguous() for name, value in read_weights(teacher).items()}
    tensors["conv1.weight"] = torch.full(tensors["conv1.weight"].shape, 3e38)
    safetensors.torch.save_file(tensors, tmp_path / "broken.safetensors")
    with refuses("--teacher resnet8: its feature of two random images is not finite; choose"):
        train("--unlabeled", "--teacher-weights", str(tmp_path / "broken.safetensors"), runs="broken-teacher")


@pytest.mark.parametrize(
    ("kind", "width", "precision"),
    [("class-token", 64, "fp32"), ("patch-mean", 64, "fp32"), ("projection", 10, "fp32"), ("projection", 10, "bf16")],
)
def test_other_teacher_feature_is_learned_at_its_size(tmp_path, kind, width, precision):
    flags = ["--teacher", "timm/test_vit", "--teacher-weights", "random", "--teacher-image-size", "64"]
    flags += ["--teacher-feature", kind, "--epochs", "1", "--eval-images", "100", "--runs", str(tmp_path)]
    flags += ["--student", "toy:network", "--precision", precision, "--batch-size", "512"]
    train_cifar(["gendd", *COMMON, *HEAD, *flags])
    run = tmp_path / "digits" / "test_vit_toy.network" / "gendd" / "0"
    record = json.loads((run / "environment.json").read_text())["teacher"]
    assert (record["feature"], record["width"], record["image_size"]) == (kind, width, 64)


def test_unavailable_teacher_feature_is_refused(train):
    with refuses("--teacher-feature class-token: the network has no class token"):
        train("--unlabeled", "--teacher-feature", "class-token", runs="refused")
    with refuses("--teacher-feature patch-mean: kd learns from the teacher's classifier, which takes"):
        train("--teacher-feature", "patch-mean", runs="refused", method="kd")


def test_sgd_probe_of_a_classifying_teacher_reaches_half(teacher, tmp_path, monkeypatch):
    words = ["gendd", *COMMON, *HEAD, *of_resnet8(teacher), "--epochs", "1", "--lr", "1e-2"]
    train_cifar([*words, "--runs", str(tmp_path)])
    run = tmp_path / "digits" / "resnet8_resnet8" / "gendd" / "0"
    given, fit = [], probes.fit_by_sgd
    monkeypatch.setattr(probes, "fit_by_sgd", lambda *arguments: given.append(arguments[1]) or fit(*arguments))
    probe(FAMILY, [str(run), "--protocol", "sgd"])
    (targets,) = given
    opened, alone = gendd.load(run, with_teacher=True), World(0, 1, 0, torch.device("cpu"))
    access, plan = opened.family.access, BatchPlan(0, 1)
    data = access.open_evaluation(opened.config, plan, alone, opened.backbone, of_training=True)
    expected = [
        0.5 * torch.nn.functional.one_hot(labels, 10) + 0.5 * opened.teacher.logits_of(images).softmax(-1)
        for _, images, labels in data.batches()
    ]
    torch.testing.assert_close(targets, torch.cat(expected), rtol=1e-3, atol=1e-4)
    assert targets.shape == (1198, 10) and targets.max(-1).values.min() < 0.999
    probe(FAMILY, [str(run), "--protocol", "sgd", "--dataset", "digits"])
    torch.testing.assert_close(given[1], targets)
    change_settings(run, teacher_weights="gone.pth")
    with refuses("^--protocol sgd: its targets need the teacher of the run, of which .*gone.pth: no su"):
        probe(FAMILY, [str(run), "--protocol", "sgd"])


@pytest.mark.parametrize("labels", ["--unlabeled", "--label-fraction=1"])
def test_student_loads_without_its_teacher_of_other_classes(teacher, labels, tmp_path):
    tensors = {name: value[:7] if name.startswith("fc.") else value for name, value in read_weights(teacher).items()}
    file, run = tmp_path / "seven.pt", tmp_path / "run"
    torch.save(tensors, file)
    words = ["gendd", *COMMON, *HEAD, "--teacher", "resnet8", "--teacher-weights", str(file), labels]
    train_cifar([*words, "--epochs", "1", "--out", str(run)])
    with_teacher = gendd.load(run, with_teacher=True)
    file.unlink()
    alone, images = gendd.load(run), torch.randn(2, 3, 32, 32)
    assert alone.outputs == with_teacher.outputs
    torch.testing.assert_close(alone.predict(images), with_teacher.predict(images))
    if labels == "--unlabeled":
        for evaluation in (lambda: gendd.evaluate(run), lambda: evaluate_cifar([str(run)])):
            with refuses("--teacher-weights .*seven.pt: no such file"):
                evaluation()
    else:
        last = json.loads((run / "result.json").read_text())["last"]["probe"]["top1"]
        assert gendd.evaluate(run)["probe"]["top1"] == pytest.approx(last, abs=1e-3)
        evaluate_cifar([str(run)])
