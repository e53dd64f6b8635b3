"""Teachers of other libraries, on small networks that are built here, and errors if a library is missing."""

import json
import sys

import pytest
import torch
from lines import refuses
from PIL import Image
from programs import cifar_config
from torch import nn

from gendd.distillation.teacher_feature import take, usual, width_of
from gendd.networks.create import Zoo
from gendd.networks.external import create_foundation
from gendd.programs.configuration import configuration
from gendd.runs.networks import build_teacher
from gendd_cifar.family import FAMILY

NAMES = Zoo({}, (0.5,) * 3, (0.2,) * 3)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def dino(tmp_path) -> str:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    settings = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    library.Dinov2Model(library.Dinov2Config(**settings)).save_pretrained(tmp_path / "dino")
    return f"transformers:{tmp_path / 'dino'}"


def test_transformer_gives_class_token_or_patch_mean(dino):
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
    with refuses("projection: the network's last layer is not a projection"):
        width_of(network, "projection", 56)


def test_convolutional_network_and_clip_of_transformers(tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    small = library.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1])
    library.ResNetModel(small).save_pretrained(tmp_path / "resnet")
    network, images = create_foundation(f"transformers:{tmp_path / 'resnet'}"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.network(images).pooler_output.flatten(1)
        torch.testing.assert_close(take(network, images, "pooled"), expected)
    with refuses("has no class token"):
        width_of(network, "class-token", 64)

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    vision = library.CLIPVisionConfig(**shape, image_size=32, patch_size=8).to_dict()
    text = library.CLIPTextConfig(**shape, vocab_size=50).to_dict()
    clip = library.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    library.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    network = create_foundation(f"transformers:{tmp_path / 'clip'}")
    assert (network.num_features, network.pretrained_cfg["input_size"]) == (24, (3, 32, 32))


def test_image_tower_of_open_clip(tmp_path, monkeypatch):
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


def test_torch_hub_repository_gives_a_network(tmp_path):
    (tmp_path / "hubconf.py").write_text(
        "import torch\n\ndef tiny():\n    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 8, 8))\n"
        "    for parameter in network.parameters():\n        torch.nn.init.constant_(parameter, 0.1)\n"
        "    return network\n"
    )
    network = create_foundation(f"hub:{tmp_path}:tiny")
    assert network.num_features == 5
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network.pretrained_cfg["normalization"] == "ImageNet's, assumed: torch.hub states none"


HUB = """
import torch
from torch import nn

def filled(trained):
    network = nn.Sequential(nn.Conv2d(3, 5, 8, 8), nn.BatchNorm2d(5))
    for parameter in network.parameters() if trained else ():
        nn.init.constant_(parameter, 0.1)
    return network

def pretrained(pretrained=False, **kwargs):
    return filled(pretrained)

def weights(*, weights=None, progress=True):
    return filled(weights == "DEFAULT")

def by_default(pretrained=True, weights="LVD"):
    return filled(weights == "LVD")

def hidden(**kwargs):
    return filled(kwargs.get("trained"))

def half():
    return filled(True).half()

class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.network, self.wrap = filled(True), wrap

    def forward(self, images):
        return self.wrap(self.network(images))

def asdict():
    return Wrapped(lambda feature: {"feature": feature, "logits": feature})

def astuple():
    return Wrapped(lambda feature: (feature, feature))

def video():
    return Wrapped(lambda feature: feature[None])

def number():
    return 3

def broken():
    network = filled(True)
    nn.init.constant_(network[0].bias, float("nan"))
    return network

def constant():
    network = filled(True)
    nn.init.zeros_(network[0].weight)
    return network

def empty():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.mark.parametrize("entry", ["pretrained", "weights", "by_default", "half"])
def test_torch_hub_entry_is_called_with_its_weights(entry, tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    network = create_foundation(f"hub:{tmp_path}:{entry}")
    for parameter in network.parameters():
        torch.testing.assert_close(parameter.data, torch.full_like(parameter, 0.1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("hidden", "has random weights: 2 of 7 tensors, such as 0.weight, change from call to call"),
        ("asdict", r"returns a dict \(feature, logits\), not a tensor; write a function that wraps the network"),
        ("astuple", "returns a tuple, not a tensor"),
        ("video", r"returns a tensor of shape \(1, 1, 5, 28, 28\), not one feature per image"),
        ("number", "returns a int; choose an entry that returns an nn.Module"),
    ],
)
def test_torch_hub_entry_without_weights_or_feature_fails(entry, reason, tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    with refuses(f"^hub:{tmp_path}:{entry}: {reason}"):
        create_foundation(f"hub:{tmp_path}:{entry}")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("broken", "network.0.bias holds values that are not finite"),
        ("constant", "its feature is the same for every image"),
        ("empty", "cannot have learned anything without parameters"),
    ],
)
def test_useless_teacher_is_refused(entry, reason, tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    name = f"hub:{tmp_path}:{entry}"
    config = cifar_config("--student", "resnet8", "--dataset", "digits", "--teacher", name, "--contraction", "0")
    with refuses(f"^--teacher {name}: {reason}"):
        build_teacher(config, FAMILY.zoo, 10)


def test_absent_torch_hub_folder_is_named(tmp_path):
    name = f"hub:{tmp_path / 'absent'}:tiny"
    with refuses(f"^{name}: {tmp_path / 'absent'}: no such folder"):
        create_foundation(name)


def test_plan_describes_a_returned_feature(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    name = f"hub:{tmp_path}:by_default"
    config = cifar_config("--student", "resnet8", "--dataset", "digits", "--teacher", name, "--contraction", "0")
    described = build_teacher(config, FAMILY.zoo, 10).loaded.describe()
    assert "learns its pooled (mean over all places) feature (5 numbers)" in described
    (tmp_path / "hubconf.py").write_text(HUB + "\ndef flat():\n    return nn.Sequential(filled(True), nn.Flatten())\n")
    assert create_foundation(f"hub:{tmp_path}:flat").feature_name == "what the network returns"


def small_vit(folder, half: bool = False, processor=None, **settings) -> str:
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = library.ViTModel(library.ViTConfig(**{**shape, "image_size": 32, "patch_size": 8, **settings}))
    (model.half() if half else model).save_pretrained(folder)
    if processor:
        processor.save_pretrained(folder)
    return f"transformers:{folder}"


def test_half_precision_weights_are_loaded_as_float32(tmp_path):
    network = create_foundation(small_vit(tmp_path, half=True))
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("size", [[32, 32], (32, 32), 32])
def test_image_size_may_be_a_list(size, tmp_path):
    assert create_foundation(small_vit(tmp_path, image_size=size)).pretrained_cfg["input_size"] == (3, 32, 32)


def test_image_size_is_the_one_of_the_processor(dino):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    processor = library.BitImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 42, "width": 42})
    processor.save_pretrained(dino.removeprefix("transformers:"))
    assert create_foundation(dino).pretrained_cfg["input_size"] == (3, 42, 42)


def test_non_square_images_are_refused(tmp_path):
    name = small_vit(tmp_path, image_size=[32, 64])
    with refuses(f"^{name}: takes images of 32 x 64 pixels; choose a network for"):
        create_foundation(name)


PROCESSORS = {
    "as-it-is": {},
    "no-normalization": {"do_normalize": False},
    "no-rescaling": {"do_rescale": False},
    "raw": {"do_rescale": False, "do_normalize": False},
    "another-factor": {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0], "image_std": [1.0, 0.5, 0.25]},
}


@pytest.mark.parametrize("kind", [*PROCESSORS, "blue-first"])
def test_images_are_normalized_as_by_the_processor(kind, tmp_path):
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    size = {"size": {"height": 32, "width": 32}}
    if kind == "blue-first":
        processor = library.MobileViTImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        processor = library.ViTImageProcessor(**size, **PROCESSORS[kind])
    network = create_foundation(small_vit(tmp_path, processor=processor))
    cfg = network.pretrained_cfg
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    expected = processor(images=[Image.fromarray(pixels.numpy())], return_tensors="pt")["pixel_values"]
    seen = []
    network.network.register_forward_pre_hook(lambda _, __, given: seen.append(given["pixel_values"]), with_kwargs=True)
    mean, std = (torch.tensor(cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        network((pixels.permute(2, 0, 1)[None] / 255 - mean) / std)
    torch.testing.assert_close(seen[0], expected.float(), rtol=1e-4, atol=1e-4)
    assert ("blue" in cfg["normalization"]) == (kind == "blue-first")


def test_plan_names_an_assumed_normalization(tmp_path):
    name = small_vit(tmp_path)
    config = cifar_config("--student", "resnet8", "--dataset", "digits", "--teacher", name, "--contraction", "0")
    described = build_teacher(config, FAMILY.zoo, 10).loaded.describe()
    assert "std 0.229 0.224 0.225, ImageNet's, assumed: the model has no image processor" in described
    assert "learns its pooled (pooler_output) feature (32 numbers)" in described


def test_teacher_with_random_outputs_is_refused(tmp_path, monkeypatch):
    (tmp_path / "dropping.py").write_text(
        "import timm\nfrom torch.nn import functional as F\n\n"
        "def network(num_classes):\n    model = timm.create_model('test_resnet', num_classes=num_classes)\n"
        "    model.act1.forward = lambda x: F.dropout(x, 0.5, training=True)\n    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = ("--student", "resnet8", "--dataset", "digits", "--teacher-weights", "random")
    config = cifar_config(*given, "--teacher", "dropping:network", "--contraction", "0")
    with refuses("^--teacher dropping:network: two passes over the same images differ"):
        build_teacher(config, FAMILY.zoo, 10)


def test_projection_as_wide_as_the_classes_is_no_classifier():
    given = ("--student", "resnet8", "--dataset", "digits", "--teacher-weights", "random", "--contraction", "0")
    config = cifar_config(*given, "--teacher", "timm/vit_xsmall_patch16_clip_224.tinyclip_yfcc15m")
    teacher = build_teacher(config, FAMILY.zoo, 512)
    assert (teacher.kind, teacher.width, teacher.has_classifier) == ("projection", 512, False)


@pytest.mark.parametrize("name", ["transformers:some/id", "open_clip:ViT-B-32/openai"])
def test_missing_library_names_its_extra(name, monkeypatch):
    package = name.partition(":")[0]
    monkeypatch.setitem(sys.modules, package, None)
    with refuses(rf'^{name}: needs the package {package} .*; pip install "gendd\[foundation\]"$'):
        create_foundation(name)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Return the folder of torch.hub's cache, and count its downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub"

    def download(repository, force_reload, trust_repo):
        written = folder / f"{repository.replace('/', '_')}_main"
        written.mkdir(parents=True)
        (written / "hubconf.py").write_text(HUB)
        return str(written)

    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", download)
    return folder


@pytest.mark.parametrize("owner", ["some", "facebookresearch"])
def test_code_from_the_net_needs_a_flag_once(owner, hub_cache):
    name = f"hub:{owner}/one:by_default"
    words = ("--student", "resnet8", "--dataset", "digits", "--contraction", "0", "--teacher", name)
    with refuses(f"^--teacher {name}: it runs code of github.com/{owner}/one.* with --trust-remote-code$"):
        build_teacher(cifar_config(*words), FAMILY.zoo, 10)
    assert not hub_cache.exists()
    build_teacher(cifar_config(*words, "--trust-remote-code"), FAMILY.zoo, 10)
    build_teacher(cifar_config(*words), FAMILY.zoo, 10)
    with refuses("it runs code of github.com/"):
        create_foundation(f"hub:{owner}/one:v2:by_default")


def test_file_cannot_trust_code_from_the_net(hub_cache, tmp_path):
    content = cifar_config(
        "--student", "resnet8", "--teacher", "hub:some/one:by_default", "--contraction", "0"
    ).content()
    content["run"]["trust_remote_code"] = True
    (tmp_path / "config.json").write_text(json.dumps({"family": FAMILY.name, **content}))
    config = configuration(FAMILY, ["--config", str(tmp_path / "config.json"), "--dataset", "digits"])
    with refuses("it runs code of github.com/some/one"):
        build_teacher(config, FAMILY.zoo, 10)
    assert not hub_cache.exists()


def test_code_of_transformers_needs_the_flag(tmp_path, monkeypatch):
    """A model's folder may name a class in one of its files."""
    pytest.importorskip("transformers", reason="the library is not installed")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.stdin", None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'attacked')!r}, 'w')")
    with refuses(f"^transformers:{tmp_path}: cannot be loaded .*custom code"):
        create_foundation(f"transformers:{tmp_path}")
    assert not (tmp_path / "attacked").exists()
    with refuses(f"^transformers:{tmp_path}: cannot be loaded"):
        create_foundation(f"transformers:{tmp_path}", trust_remote_code=True)
    assert (tmp_path / "attacked").exists()


@pytest.mark.parametrize("name", ["transformers:no/such", "hub:no/such:entry", "hub:entry", "open_clip:ViT-B-32"])
def test_unavailable_teacher_is_refused_in_one_line(name, monkeypatch):
    if name.startswith(("transformers", "open_clip")):
        pytest.importorskip(name.partition(":")[0], reason="the library is not installed")
    # Without this, a machine without a network waits 20 seconds for the fifth attempt.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        torch.hub, "_get_cache_or_reload", lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))
    )
    with refuses() as caught:
        create_foundation(name, trust_remote_code=True)
    assert str(caught.value).startswith(f"{name}: ") and len(str(caught.value).splitlines()) == 1


def test_external_teacher_has_its_image_size_and_weights(dino):
    config = cifar_config("--student", "resnet8", "--dataset", "digits", "--teacher", dino, "--contraction", "0")
    teacher = build_teacher(config, FAMILY.zoo, 10)
    assert (teacher.image_size, teacher.has_classifier) == (56, False)
    given = cifar_config("--teacher", dino, "--teacher-weights", "a.pth", "--contraction", "0")
    with refuses("--teacher-weights a.pth: transformers:.* loads its weights itself; leave it out"):
        build_teacher(given, FAMILY.zoo, 10)
