"""The evaluate program: runs, plain files and published checkpoints."""

import argparse
import json
import tarfile
from pathlib import Path

import pytest
import torch

from gendd.checkpoint import load_weights, read_weights
from gendd.errors import UserError
from gendd.head import SplitTokenHead
from gendd_cifar.evaluate import main
from gendd_cifar.train import main as train

HEAD = ["--token-dim", "32", "--width", "16", "--depth", "2", "--repeats", "2", "--timesteps", "stratified"]
COMMON = ["--dataset", "digits", "--epochs", "1", "--hflip", "0", "--precision", "fp32"]
NETWORKS = ["--dataset", "digits", "--student", "toy:network", "--teacher", "resnet8", "--precision", "fp32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A teacher's run and a GenDD student's, one epoch each."""
    root = tmp_path_factory.mktemp("runs")
    teacher = root / "digits" / "resnet8" / "classification" / "0"
    train([*COMMON, "--method", "classification", "--student", "resnet8", "--runs", str(root)])
    train([*COMMON, *HEAD, "--method", "gendd", "--student", "toy:network", "--teacher", "resnet8",
           "--teacher-weights", str(teacher), "--runs", str(root)])  # fmt: skip
    return {"teacher": teacher, "gendd": root / "digits" / "resnet8_toy.network" / "gendd" / "0"}


def evaluated(tmp_path: Path, *arguments) -> dict[str, dict]:
    """Read-outs by name."""
    file = tmp_path / "figures.json"
    main([*map(str, arguments), "--json", str(file)])
    return {row["read_out"]: row for row in json.loads(file.read_text())["read_outs"]}


def accuracies(rows: dict[str, dict]) -> dict[str, tuple]:
    return {name: (row["top1"], row["top5"]) for name, row in rows.items()}


def test_a_run_is_evaluated_as_training_did(runs, tmp_path):
    rows = evaluated(tmp_path, runs["gendd"], "--precision", "fp32")
    result = json.loads((runs["gendd"] / "result.json").read_text())["last"]
    teacher = json.loads((runs["teacher"] / "result.json").read_text())["last"]["classifier"]
    expected = {"teacher": teacher, "head": result["head"], "probe": result["probe"]}
    for name, row in rows.items():
        # Another batch of noise-free arithmetic may move an image that lies on the border.
        assert row["top1"] == pytest.approx(expected[name]["top1"], abs=0.35), name
    assert rows["head"]["flops"] > rows["probe"]["flops"] > 0
    assert rows["head"]["parameters"] > rows["probe"]["parameters"]
    assert rows["head"]["images_per_second"]["median"] > 0


def test_sampling_flags_replace_the_run_s(runs, tmp_path):
    quick = evaluated(tmp_path, runs["gendd"], "--steps", "1", "--guidance", "1")["head"]["flops"]
    guided = evaluated(tmp_path, runs["gendd"], "--steps", "1")["head"]["flops"]
    noisy = evaluated(
        tmp_path, runs["gendd"], "--sampler", "ancestral", "--steps", "10", "--num-samples", "3", "--images", "20"
    )["head"]["flops"]
    assert quick < guided < noisy


def test_the_same_seed_samples_the_same(runs, tmp_path):
    flags = ("--sampler", "ancestral", "--steps", "5", "--num-samples", "2", "--images", "100")
    first, again = (accuracies(evaluated(tmp_path, runs["gendd"], *flags)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_published_checkpoints_are_taken_as_they_are(runs, tmp_path, container):
    ours = torch.load(runs["gendd"] / "checkpoints" / "last.pt", weights_only=True)["model"]
    theirs = {"backbone.": "model.", "norm.": "cls_projector.0.", "head.net.": "diffloss.net."}
    tensors = {}
    for name, value in ours.items():
        prefix = next((prefix for prefix in theirs if name.startswith(prefix)), "")
        tensors[theirs.get(prefix, "") + name.removeprefix(prefix)] = value
    tensors |= {"cls_centers": torch.zeros(10, 64), "chunk_idx": torch.arange(2)[None]}
    if container == "state_dict":
        tensors = {f"module.{name}": value for name, value in tensors.items()}
    file = tmp_path / "published.pth"
    torch.save({container: tensors, "args": argparse.Namespace(lr=0.1)}, file)
    expected = accuracies(evaluated(tmp_path, runs["gendd"], "--precision", "fp32"))
    del expected["teacher"]
    assert accuracies(evaluated(tmp_path, file, *NETWORKS)) == expected


def test_factored_conditioning_is_recognised_and_never_taken_for_the_other(runs, tmp_path):
    train([*COMMON, *HEAD, "--conditioning", "factored", "--method", "gendd", "--student", "toy:network", "--teacher",
           "resnet8", "--teacher-weights", str(runs["teacher"]), "--runs", str(tmp_path)])  # fmt: skip
    run = tmp_path / "digits" / "resnet8_toy.network" / "gendd" / "0"
    assert json.loads((run / "config.json").read_text())["conditioning"] == "factored"
    expected = accuracies(evaluated(tmp_path, run, "--precision", "fp32"))
    file = run / "checkpoints" / "last.pt"
    assert accuracies(evaluated(tmp_path, file, *NETWORKS)) == {name: expected[name] for name in ("head", "probe")}

    tensors = read_weights(file, "checkpoint")
    joint = SplitTokenHead(64, 16, token_dim=32, width=16, depth=2)
    with pytest.raises(UserError, match="--conditioning factored") as error:
        load_weights(joint, {name.removeprefix("head."): v for name, v in tensors.items() if name.startswith("head.")},
                     "--student-weights", "run")  # fmt: skip
    assert len(str(error.value).splitlines()) == 1


def test_plain_student_of_a_run_is_its_probe(runs, tmp_path):
    rows = evaluated(tmp_path, runs["gendd"] / "student.safetensors", "--student", "toy:network", "--dataset", "digits",
                     "--precision", "fp32")  # fmt: skip
    expected = evaluated(tmp_path, runs["gendd"], "--precision", "fp32")["probe"]
    assert accuracies(rows) == {"classifier": (expected["top1"], expected["top5"])}


def test_a_trained_teacher_scores_its_recorded_accuracy(shared, tmp_path):
    """All 10,000 test images of CIFAR-100 through the whole path: folder, file, network, count."""
    with tarfile.open(shared / "data" / "cifar100-png-test.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "train").symlink_to(tmp_path / "test")
    weights = shared / "pretrained" / "resnet56_cifar100.pth"
    recorded = torch.load(weights, weights_only=True)["accuracy"]
    row = evaluated(tmp_path, weights, "--student", "resnet56", "--dataset", tmp_path, "--precision", "fp32")
    assert row["classifier"]["top1"] == pytest.approx(recorded, abs=0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "checkpoint is missing"),
        (["nowhere"], "checkpoint nowhere: no such file"),
        (["RUN/student.safetensors"], "--student is missing"),
        (["RUN/checkpoints/last.pt", "--student", "toy:network", "--dataset", "digits"], "--teacher is missing"),
        (["RUN", "--teacher", "resnet8x4"], "conv1.weight is (16, 3, 3, 3), not (32, 3, 3, 3)"),
        (["RUN", "--sampler", "ddim", "--steps", "2000"], "--steps 2000"),
        (["RUN/config.json", *NETWORKS], "no checkpoint"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(runs, arguments, message):
    with pytest.raises(UserError) as error:
        main([argument.replace("RUN", str(runs["gendd"])) for argument in arguments])
    assert message in str(error.value)


def test_dry_run_names_what_is_missing(tmp_path, capsys):
    main(["path/to/student.pth", *NETWORKS, "--dry-run"])
    assert "path/to/student.pth: no such file" in capsys.readouterr().out
