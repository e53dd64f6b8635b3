"""Teachers whose parameters are mapped from their file: the same numbers in less memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from lines import refuses
from programs import imagenet_config
from safetensors.torch import load_file, save_file

from gendd.programs.run_teachers import weights_record
from gendd.runs import networks
from gendd.runs.networks import build_teacher
from gendd_imagenet.family import FAMILY

SIDE, CLASSES = 64, 10


def write_folder(folder: Path, dtype: torch.dtype = torch.float32, **options) -> str:
    """Write a random transformer for images of 64 pixels in timm's layout; return its name."""
    torch.manual_seed(3)
    network = timm.create_model("test_vit", num_classes=CLASSES, img_size=SIDE, **options)
    folder.mkdir(exist_ok=True)
    save_file({name: value.to(dtype) for name, value in network.state_dict().items()}, folder / "model.safetensors")
    cfg = {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3, "num_classes": CLASSES}
    config = {"architecture": "test_vit", "num_classes": CLASSES, "pretrained_cfg": cfg, "model_args": options}
    (folder / "config.json").write_text(json.dumps(config))
    return f"local-dir:{folder}"


def teacher_of(name: str, precision: str = "fp32", *flags: str, image_size: int = SIDE):
    words = ["--student", "timm/test_resnet", "--image-size", str(image_size), "--contraction", "0", *flags]
    return build_teacher(imagenet_config("--teacher", name, *words), FAMILY.zoo, CLASSES, precision=precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_mapped_teacher_equals_copied_teacher(stored, precision, tmp_path, monkeypatch):
    name, images = write_folder(tmp_path, stored), torch.randn(2, 3, SIDE, SIDE)
    copied = teacher_of(name, precision)
    monkeypatch.setattr(networks, "LARGE", 0)
    state = torch.get_rng_state()
    mapped = teacher_of(name, precision)
    assert torch.equal(torch.get_rng_state(), state)
    assert mapped.loaded.checksum == copied.loaded.checksum
    assert mapped.loaded.describe() == copied.loaded.describe()
    assert mapped.loaded.describe_weights() == copied.loaded.describe_weights()
    kept = {key: value.dtype for key, value in copied.model.state_dict().items()}
    assert {key: value.dtype for key, value in mapped.model.state_dict().items()} == kept
    assert torch.equal(mapped.features_of(images), copied.features_of(images))
    assert torch.equal(mapped.logits_of(images), copied.logits_of(images))


def test_overwritten_file_of_mapped_teacher_is_refused(tmp_path, monkeypatch):
    name, images = write_folder(tmp_path), torch.randn(2, 3, SIDE, SIDE)
    monkeypatch.setattr(networks, "LARGE", 0)
    teacher, file = teacher_of(name), tmp_path / "model.safetensors"
    content = file.read_bytes()
    features = teacher.features_of(images)
    (tmp_path / "new").write_bytes(bytes(len(content)))
    file.write_bytes(content)
    with refuses("--teacher-weights .*model.safetensors: was overwritten while in use"):
        teacher.features_of(images)
    # A replaced file leaves the old content mapped.
    (tmp_path / "new").replace(file)
    assert torch.equal(teacher.features_of(images), features)


def test_mapped_teacher_resizes_its_positions(tmp_path, monkeypatch):
    name, images = write_folder(tmp_path), torch.randn(2, 3, 96, 96)
    copied = teacher_of(name, image_size=96)
    monkeypatch.setattr(networks, "LARGE", 0)
    mapped = teacher_of(name, image_size=96)
    assert "pos_embed resized" in mapped.loaded.describe_weights()
    assert torch.equal(mapped.features_of(images), copied.features_of(images))


def test_missing_tensors_of_mapped_teacher_are_refused_or_random(tmp_path, monkeypatch):
    name = write_folder(tmp_path)
    weights = timm.create_model("test_vit", num_classes=CLASSES, img_size=SIDE).state_dict()
    save_file({key: value for key, value in weights.items() if "norm1" not in key}, tmp_path / "model.safetensors")
    monkeypatch.setattr(networks, "LARGE", 0)
    with refuses("12 missing"):
        teacher_of(name)
    teacher = teacher_of(name, "fp32", "--allow-partial")
    assert teacher.features_of(torch.randn(2, 3, SIDE, SIDE)).isfinite().all()


@pytest.mark.parametrize(("lost", "classifies"), [("head.", False), ("norm.", True)])
def test_classifier_that_the_file_lacks_is_not_used(lost, classifies, tmp_path):
    """Otherwise the student would be evaluated with a random classifier."""
    name, file = write_folder(tmp_path), tmp_path / "model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if not key.startswith(lost)}
    save_file(tensors, file)
    teacher = teacher_of(name, "fp32", "--allow-partial")
    assert (teacher.classifier is not None) == classifies
    assert ("not its logits" in teacher.loaded.describe()) != classifies
    with refuses("2 missing .*, or --allow-partial"):
        teacher_of(name)


@pytest.mark.parametrize(("stated", "license"), [({"license": "apache-2.0"}, "apache-2.0"), ({}, "unknown")])
def test_teacher_record_states_license_of_its_weights(stated, license, tmp_path):
    name, config = write_folder(tmp_path), tmp_path / "config.json"
    content = json.loads(config.read_text())
    content["pretrained_cfg"] |= stated
    config.write_text(json.dumps(content))
    assert weights_record(teacher_of(name).loaded)["license"] == license
    file = str(tmp_path / "model.safetensors")
    other = teacher_of("timm/test_vit.r160_in1k", "fp32", "--teacher-weights", file)
    assert weights_record(other.loaded)["license"] == "unknown"


PEAK = """
import sys
from pathlib import Path
import gendd
from test_networks import teacher_of

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

teacher_of(sys.argv[1])
before = peak()
teacher_of(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak memory in Linux's /proc")
def test_large_teacher_needs_the_memory_of_its_weights(tmp_path):
    """The process also reads the whole file for checksums, and computes features of two images."""
    small = write_folder(tmp_path / "small")
    large = write_folder(tmp_path / "large", embed_dim=768, num_heads=12, depth=7, mlp_ratio=4)
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert 190e6 < size < 210e6
    paths = [Path(__file__).parent, Path(__file__).parents[2] / "toys", *filter(None, sys.path)]
    command = [sys.executable, "-c", PEAK, small, large]
    environment = {"PYTHONPATH": ":".join(map(str, paths)), "OMP_NUM_THREADS": "1", "PATH": ""}
    peak = int(subprocess.run(command, check=True, env=environment, capture_output=True, text=True).stdout.split()[-1])
    assert 0.5 * size < peak < 1.3 * size
