"""The evaluate program on small photographs: runs and published checkpoints."""

import json
from pathlib import Path

import pytest
import timm
import torch
from programs import evaluate_imagenet as main

from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.student import Student
from gendd.networks.features import feature_width
from gendd_imagenet.models.zoo import NETWORKS

CLASSES = 3
FLAGS = ["--image-size", "64", "--workers", "0", "--precision", "fp32", "--teacher", "resnet18"]


@pytest.fixture
def rows(photos, tmp_path):
    """Return a function (file, flags) that gives the figures of each prediction."""

    def evaluate(file: Path, *flags: str) -> dict[str, dict]:
        output = tmp_path / "figures.json"
        main([str(file), *FLAGS, "--dataset", str(photos), "--json", str(output), *flags])
        return {row["output"]: row for row in json.loads(output.read_text())["outputs"]}

    return evaluate


def random_student(name: str) -> Student:
    """Return a random student that distinguishes all images."""
    torch.manual_seed(0)
    backbone, teacher = (timm.create_model(NETWORKS[network], num_classes=CLASSES) for network in (name, "resnet18"))
    head = SplitTokenHead(512, feature_width(backbone), width=16, **PAPER | {"depth": 2})
    student = Student(backbone, head, teacher.get_classifier())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return student


def published_backbone_names(network: str, names: list[str]) -> dict[str, str]:
    """Map our tensor names to the published network's, which has the same order of modules."""
    if network == "resnet18":
        return {name: name for name in names}
    layers = [(0, (0, 1))] + [(block, (0, 1, 3, 4)) for block in range(1, 14)]
    modules = [f"model.{layer}.{part}" for layer, parts in layers for part in parts] + ["fc"]
    ours = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    theirs = dict(zip(ours, modules, strict=True))
    return {name: f"{theirs[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}" for name in names}


@pytest.mark.parametrize("network", ["resnet18", "mobilenetv1"])
def test_published_checkpoints_are_evaluated_unchanged(rows, tmp_path, network):
    student = random_student(network)
    torch.save({"model": student.state_dict()}, tmp_path / "ours.pt")
    names = published_backbone_names(network, list(student.backbone.state_dict()))
    tensors = {f"model.{names[name]}": value for name, value in student.backbone.state_dict().items()}
    tensors |= {f"cls_projector.0.{name}": value for name, value in student.norm.state_dict().items()}
    tensors |= {f"diffloss.net.{name}": value for name, value in student.head.net.state_dict().items()}
    tensors |= {f"classifier.{name}": value for name, value in student.classifier.state_dict().items()}
    tensors |= {"cls_centers": torch.zeros(CLASSES, 512), "chunk_idx": torch.arange(8)[None]}
    torch.save({"state_dict": {f"module.{name}": value for name, value in tensors.items()}}, tmp_path / "theirs.pth")
    flags = ("--student", network)
    ours, theirs = rows(tmp_path / "ours.pt", *flags), rows(tmp_path / "theirs.pth", *flags)
    assert set(ours) == set(theirs) == {"head", "probe"}
    for name, row in ours.items():
        assert row["top1"] == theirs[name]["top1"], name
        assert 0 < row["top1"] < 100


def test_resolution_and_crop_are_options(rows, tmp_path):
    torch.save({"model": random_student("resnet18").state_dict()}, tmp_path / "ours.pt")
    small = rows(tmp_path / "ours.pt", "--student", "resnet18")["probe"]
    large = rows(tmp_path / "ours.pt", "--student", "resnet18", "--image-size", "96", "--crop-pct", "1")["probe"]
    assert large["flops"] > 2 * small["flops"]


def test_long_tail_is_evaluated_in_groups(rows, photos, tmp_path, capsys):
    torch.save({"model": random_student("resnet18").state_dict()}, tmp_path / "ours.pt")
    entries = {"n01": 110, "n02": 30, "n03": 5}
    lines = [f"train/{name}/{name}_{number % 30}.JPEG {label}" for label, (name, count) in enumerate(entries.items())
             for number in range(count)]  # fmt: skip
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    flags = ("--student", "resnet18", "--train-list", str(tmp_path / "train.txt"))
    probe = rows(tmp_path / "ours.pt", *flags)["probe"]
    assert "| top-1 % | many % | medium % | few % |" in capsys.readouterr().out
    assert sum(probe[name] for name in ("many", "medium", "few")) / 3 == pytest.approx(probe["top1"], abs=0.01)
