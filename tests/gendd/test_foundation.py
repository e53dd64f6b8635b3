"""Teachers of other libraries, on tiny networks that are built here; without the libraries, what is said."""

import sys

import pytest
import torch
from programs import cifar_config
from torch import nn

from gendd.errors import Refusal, UserError
from gendd.foundation import create_foundation
from gendd.networks import Names
from gendd.programs.build import build_teacher
from gendd.teacher_features import take, usual, width_of
from gendd_cifar.tree import TREE

NAMES = Names({}, (0.5,) * 3, (0.2,) * 3)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def dino(tmp_path) -> str:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    settings = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    library.Dinov2Model(library.Dinov2Config(**settings)).save_pretrained(tmp_path / "dino")
    return f"transformers:{tmp_path / 'dino'}"


def test_a_transformer_gives_its_class_token_or_the_mean_of_its_patches(dino):
    network, images = create_foundation(dino), torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        tokens = network.network(images).last_hidden_state
        assert tokens.shape == (2, 1 + 16, 48) and network.num_features == 48
        for kind, expected in (
            ("pooled", tokens[:, 0]),
            ("class-token", tokens[:, 0]),
            ("patch-mean", tokens[:, 1:].mean(1)),
        ):
            torch.testing.assert_close(take(network, images, kind), expected)
            assert width_of(network, kind, 56) == 48
    assert usual(network) == "pooled"
    with pytest.raises(Refusal, match="projection: the network ends without one"):
        width_of(network, "projection", 56)


def test_a_convolutional_network_and_clip_of_transformers(tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    small = library.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1])
    library.ResNetModel(small).save_pretrained(tmp_path / "resnet")
    network, images = create_foundation(f"transformers:{tmp_path / 'resnet'}"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.network(images).pooler_output.flatten(1)
        torch.testing.assert_close(take(network, images, "pooled"), expected)
    with pytest.raises(Refusal, match="has no class token"):
        width_of(network, "class-token", 64)

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = library.CLIPVisionConfig(**shape, image_size=32, patch_size=8).to_dict()
    text = library.CLIPTextConfig(**shape, vocab_size=50).to_dict()
    clip = library.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    library.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    network = create_foundation(f"transformers:{tmp_path / 'clip'}")
    assert (network.num_features, network.pretrained_cfg["input_size"]) == (24, (3, 32, 32))


def test_the_image_tower_of_open_clip(tmp_path, monkeypatch):
    library = pytest.importorskip("open_clip", reason="open_clip is not installed")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(library.factory._MODEL_CONFIGS, "toy", config)
    torch.save(library.create_model("toy").state_dict(), tmp_path / "toy.pt")
    network = create_foundation(f"open_clip:toy/{tmp_path / 'toy.pt'}")
    assert network.num_features == 16 and network.pretrained_cfg["mean"][0] == pytest.approx(0.4815, abs=1e-3)
    loaded = library.create_model("toy", pretrained=str(tmp_path / "toy.pt")).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), loaded.encode_image(images))


def test_a_repository_of_torch_hub(tmp_path):
    (tmp_path / "hubconf.py").write_text(
        "import torch\n\ndef tiny():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 8, 8))\n"
    )
    network = create_foundation(f"hub:{tmp_path}:tiny")
    assert network.num_features == 5
    assert isinstance(network.get_classifier(), nn.Identity)


@pytest.mark.parametrize(
    ("name", "package", "told"),
    [("transformers:some/id", "transformers", "pip install transformers"),
     ("open_clip:ViT-B-32/openai", "open_clip", "pip install open_clip_torch")],
)  # fmt: skip
def test_a_library_that_is_not_installed_is_named(name, package, told, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Refusal, match=f"^{name}: needs the package {package}, which is not installed; {told}"):
        create_foundation(name)


@pytest.mark.parametrize("name", ["transformers:no/such", "hub:no/such:entry", "hub:entry", "open_clip:ViT-B-32"])
def test_what_cannot_be_had_is_told_in_a_line(name, monkeypatch):
    if name.startswith(("transformers", "open_clip")):
        pytest.importorskip(name.partition(":")[0], reason="the library is not installed")
    monkeypatch.setattr(
        torch.hub, "_get_cache_or_reload", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(Refusal) as caught:
        create_foundation(name)
    assert str(caught.value).startswith(f"{name}: ") and len(str(caught.value).splitlines()) == 1


def test_it_sees_its_own_size_and_brings_its_weights(dino):
    config = cifar_config("--student", "resnet8", "--dataset", "digits", "--teacher", dino, "--contraction", "0")
    teacher = build_teacher(config, TREE.names, 10)
    assert (teacher.image_size, teacher.classifies) == (56, False)
    given = cifar_config("--teacher", dino, "--teacher-weights", "a.pth", "--contraction", "0")
    with pytest.raises(UserError, match="--teacher-weights a.pth: transformers:.* brings its own; leave it out"):
        build_teacher(given, TREE.names, 10)
