"""The plain student of a run: timm loads it, with its image size, normalization and crop."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
from photos import ALONE
from programs import imagenet_config, train_cifar, train_imagenet

from gendd.core.seeding import BatchPlan
from gendd.methods import METHODS
from gendd.networks.create import create_network
from gendd.programs.student_folder import StudentFolder
from gendd.runs.folder import RunFolder, learned_classes
from gendd.training.loop import Training
from gendd_cifar.family import FAMILY as CIFAR
from gendd_imagenet.family import FAMILY

DOCS = Path(__file__).parents[2] / "docs"
RECIPE = ["--student", "timm/test_vit", "--image-size", "96", "--crop-pct", "0.75", "--interpolation", "bicubic"]
RECIPE += ["--teacher", "timm/test_resnet", "--teacher-weights", "random", "--precision", "fp32", "--workers", "0"]
RECIPE += ["--batch-size", "20", "--epochs", "2", "--warmup-epochs", "0", "--width", "16", "--depth", "1"]
RECIPE += ["--repeats", "4", "--token-dim", "8", "--feature-mixup", "0"]


@pytest.fixture(scope="module")
def command(photos, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return ["gendd", *RECIPE, "--images", str(photos / "train"), "--runs", str(runs)]


@pytest.fixture(scope="module")
def run(command) -> Path:
    train_imagenet(command)
    return next(Path(command[-1]).rglob("result.json")).parent


def folder_of(
    family, name: str, num_classes: int, image_size: int, path: Path, **geometry
) -> tuple[torch.nn.Module, Path]:
    """Write a network with random weights as the student of a run; return the network and the folder."""
    torch.manual_seed(0)
    network = create_network(name, family.zoo, num_classes, image_size).eval()
    evaluation = SimpleNamespace(class_names=tuple(f"class {number}" for number in range(num_classes)))
    config = family.config(METHODS["gendd"](), student=name, dataset="set", image_size=image_size, epochs=1, **geometry)
    measurement = SimpleNamespace(
        config=config, network=network, evaluation=evaluation, plain=lambda model: model, model=lambda weights: network
    )
    StudentFolder(RunFolder(path), measurement, {}, {}).write(1)
    return network, path / "student"


@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_byobnet", "test_vit4"]
)
def test_timm_rebuilds_a_student_of_any_family(name, num_classes, tmp_path):
    network, folder = folder_of(FAMILY, f"timm/{name}", num_classes, 64, tmp_path, crop_pct=0.7)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(images), network(images), rtol=0, atol=0)
    data = timm.data.resolve_model_data_config(loaded)
    assert (data["input_size"], data["crop_pct"], data["interpolation"]) == ((3, 64, 64), 0.7, "bilinear")


def test_timm_rebuilds_a_student_of_the_cifar_zoo(tmp_path):
    network, folder = folder_of(CIFAR, "resnet8", 10, 32, tmp_path)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["toy:network", "timm/test_resnet", "timm/test_efficientnet"])
def test_changed_network_names_no_timm_architecture(name, tmp_path):
    """timm cannot build a user's function, or networks whose stems the CIFAR family changes."""
    _, folder = folder_of(CIFAR, name, 5, 32, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert "architecture" not in config and config["gendd"]["network"] == name
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]


def test_student_file_is_reproducible_byte_for_byte(tmp_path):
    files = []
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        folder_of(CIFAR, "resnet8", 10, 32, tmp_path / str(number))
        files.append((tmp_path / str(number) / "student.safetensors").read_bytes())
    assert len(set(files)) == 1


def test_documented_use_of_a_student_works(run, command, photos, tmp_path, monkeypatch):
    """Run the code under "Use it" unchanged: image and feature agree with the evaluation's."""
    (code,) = re.findall(r"## Use it.*?```python\n(.*?)```", (DOCS / "folder.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 9
    trained = create_network("timm/test_vit", FAMILY.zoo, 0, 96).eval()
    trained.load_state_dict(safetensors.torch.load_file(run / "student.safetensors"))
    data = FAMILY.access.open_evaluation(imagenet_config(*command[1:]), BatchPlan(0, 1, 0, 1), ALONE, trained)
    shutil.copytree(run / "student", tmp_path / "RUN" / "student")
    shutil.copy(Path(data.listing.root, data.listing.names[0].decode()), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code, found)
    image = next(iter(data.batches()))[1][:1]
    torch.testing.assert_close(found["image"][None], image, rtol=0, atol=0.06)
    cosine = torch.cosine_similarity(found["feature"], trained(image)).item()
    assert found["feature"].shape == (1, 64) and cosine > 0.999


def test_student_folder_names_the_teacher(run):
    config = json.loads((run / "student" / "config.json").read_text())
    assert config["gendd"]["teacher"]["network"] == "timm/test_resnet"
    assert (config["gendd"]["epoch"], config["gendd"]["epochs"]) == (2, 2)


def test_student_is_written_after_the_first_epoch(command, tmp_path, monkeypatch):
    def stopped(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return train_epoch(self)

    train_epoch = Training.train_epoch
    monkeypatch.setattr(Training, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_imagenet([*command[:-1], str(tmp_path)])
    (folder,) = tmp_path.rglob("student")
    timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert json.loads((folder / "config.json").read_text())["gendd"]["epoch"] == 1


def test_student_file_contains_its_classes(tmp_path):
    words = ["classification", "--dataset", "digits", "--student", "toy:network", "--epochs", "1"]
    train_cifar([*words, "--batch-size", "1198", "--image-size", "8", "--runs", str(tmp_path)])
    (file,) = tmp_path.rglob("student.safetensors")
    assert learned_classes(file) == list("0123456789")
