"""Teacher weights from a file, timm, another library or a function: records and errors."""

import math

import pytest
import timm
import torch
import toy
from lines import refuses
from programs import cifar_config

from gendd.networks.tensors import checksum_of
from gendd.runs.networks import build_teacher
from gendd_cifar.family import FAMILY

KINDS = ("file", "timm", "hub", "transformers", "open_clip", "function")
HUB = """import torch

def tiny():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 8, 8, bias=False))
    torch.nn.init.constant_(network[0].weight, {value})
    return network
"""


@pytest.fixture
def flags_of(tmp_path, monkeypatch):
    """Return a function that maps a kind of teacher to its flags; its first tensor holds a given value."""

    def put(network: torch.nn.Module, value: float | None) -> torch.nn.Module:
        with torch.no_grad():
            if value is not None:
                next(network.parameters()).fill_(value)
        return network

    def flags(kind: str, value: float | None = None) -> list[str]:
        torch.manual_seed(1)
        if kind == "file":
            torch.save({"net": put(toy.network(10), value).state_dict()}, tmp_path / "toy.pth")
            return ["--teacher", "toy:network", "--teacher-weights", str(tmp_path / "toy.pth")]
        if kind == "timm":
            network = put(timm.create_model("test_resnet", num_classes=10), value)
            timm.models.save_for_hf(network, str(tmp_path / "timm"), safe_serialization=True)
            return ["--teacher", f"local-dir:{tmp_path / 'timm'}"]
        if kind == "hub":
            (tmp_path / "hubconf.py").write_text(HUB.format(value="0.1" if value is None else f"float('{value}')"))
            return ["--teacher", f"hub:{tmp_path}:tiny"]
        if kind == "transformers":
            library = pytest.importorskip("transformers", reason="transformers is not installed")
            shape = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
            put(library.Dinov2Model(library.Dinov2Config(**shape)), value).save_pretrained(tmp_path / "dino")
            return ["--teacher", f"transformers:{tmp_path / 'dino'}"]
        if kind == "open_clip":
            library = pytest.importorskip("open_clip", reason="open_clip is not installed")
            vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
            text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
            config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
            monkeypatch.setitem(library.factory._MODEL_CONFIGS, "toy", config)
            network = library.create_model("toy")
            put(network.visual, value)
            torch.save(network.state_dict(), tmp_path / "clip.pt")
            return ["--teacher", f"open_clip:toy/{tmp_path / 'clip.pt'}"]
        monkeypatch.setattr(toy, "bias", 0.0 if value is None else value)
        return ["--teacher", "toy:own", "--teacher-weights", "random"]

    return flags


def built(flags: list[str], seed: int = 0):
    torch.manual_seed(seed)
    config = cifar_config("--student", "resnet8", "--dataset", "digits", "--contraction", "0", *flags)
    return build_teacher(config, FAMILY.zoo, 10).loaded


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_has_a_checksum_of_its_tensors(kind, flags_of):
    flags = flags_of(kind)
    teacher = built(flags)
    assert teacher.checksum == checksum_of(teacher.network.state_dict()) == built(flags, seed=7).checksum
    told = teacher.describe_weights()
    assert told.endswith(f", sha256 {teacher.checksum[:12]}") and "random" not in told
    assert teacher.checksum != built(flags_of(kind, 0.25)).checksum


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_with_nonfinite_weights_is_refused(kind, flags_of):
    flags = flags_of(kind, math.nan)
    with refuses("^--teacher(-weights)? .*holds values that are not finite"):
        built(flags)


@pytest.mark.parametrize(
    ("name", "weights"),
    [("timm/resnet18", "timm"), ("hf-hub:a/b", "timm"), ("local-dir:a", "timm"), ("resnet56", None)]
    + [("hub:a/b:c", None), ("transformers:a/b", None), ("open_clip:a/b", None), ("package.module:function", None)],
)
def test_timm_names_use_timm_weights_by_default(name, weights):
    assert cifar_config("--teacher", name).networks.teacher_weights == weights
    assert cifar_config("--teacher", name, "--teacher-weights", "a.pth").networks.teacher_weights == "a.pth"


def test_function_with_random_weights_is_refused_as_teacher():
    """A function that loads its own weights returns the same network at each call."""
    with refuses("--teacher toy:network: its weights are random: .* change from call to call"):
        built(["--teacher", "toy:network"])
    assert built(["--teacher", "toy:own"]).loaded == "the weights of toy:own"
