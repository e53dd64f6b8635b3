"""Networks by short name, from timm and from a user's own function; where their weights come from; recomputed
activations; FLOPs."""

import copy
import gc
import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
import torch.distributed as dist
from faults import failing
from lines import refuses
from programs import build_network
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gendd import checkpoint, retry, timm_sources
from gendd.errors import PassingFault
from gendd.methods import METHODS
from gendd.networks import (
    Names,
    check_trains,
    create_network,
    feature_width,
    flops,
    parameter_count,
    pooled_feature,
    recompute_activations,
    trial,
)
from gendd.programs.dry_run import without_absent
from gendd_cifar.tree import CIFAR100_MEAN, CIFAR100_STD, TREE

USERS_MODULE = """
from torch import nn


class Tiny(nn.Module):
    num_features = 6

    def __init__(self, num_classes):
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3)
        self.output = nn.Linear(6, num_classes)

    def forward_features(self, images):
        return self.convolution(images)

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.output(pooled)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))

    def get_classifier(self):
        return self.output


def tiny(num_classes):
    return Tiny(num_classes)


def fixed(num_classes):
    return Tiny(11)


def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))


def stated(num_classes):
    network = Tiny(num_classes)
    network.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.1, 0.2, 0.3)}
    return network


def half_stated(num_classes):
    network = Tiny(num_classes)
    network.pretrained_cfg = {"classifier": "output"}
    return network


def gray(num_classes):
    network = Tiny(num_classes)
    network.convolution = nn.Conv2d(1, 6, 3)
    return network


def too_wide(num_classes):
    network = Tiny(num_classes)
    network.num_features = 9
    return network


def without_classes():
    return Tiny(7)


def with_depth(num_classes, depth):
    return Tiny(num_classes)


def raises(num_classes):
    raise RuntimeError("no such\\nlayer")


def number(num_classes):
    return num_classes


CONSTANT = 3


def without_linear(num_classes):
    network = Tiny(num_classes)
    network.output = nn.Identity()
    return network
"""


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    (tmp_path / "users_networks.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "users_networks"


def create(name, num_classes=7, image_size=32):
    torch.manual_seed(0)
    return create_network(name, TREE.names, num_classes, image_size).eval()


def refusal(name):
    with refuses() as caught:
        create(name)
    message = caught.value
    assert message.startswith(f"{name}: ") and len(message.splitlines()) == 1
    return message


@torch.no_grad()
def assert_speaks_the_interface(network, width, num_classes=7):
    images = torch.randn(2, 3, 32, 32)
    feature = pooled_feature(network, images)
    assert feature.shape == (2, width) and feature_width(network) == width
    torch.testing.assert_close(network.get_classifier()(feature), network(images))
    assert network(images).shape == (2, num_classes)


def test_a_short_name_is_the_trees_own_network():
    network = create("vgg8")
    assert_speaks_the_interface(network, 512)
    assert parameter_count(network) == 3965028 - 93 * 513
    assert network.pretrained_cfg["mean"] == CIFAR100_MEAN and network.pretrained_cfg["std"] == CIFAR100_STD


@torch.no_grad()
def test_timm_stem_keeps_resolution_of_small_images():
    network = create("timm/resnet18")
    assert network.conv1.stride == (1, 1) and isinstance(network.maxpool, nn.Identity)
    # Stages 2 to 4 halve it three times: 32 to 4, where the stem for large images would leave 1.
    assert network.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert_speaks_the_interface(network, 512)


@torch.no_grad()
def test_a_timm_network_keeps_its_stem_for_large_images():
    network = create("timm/resnet18", image_size=224)
    assert network.conv1.stride == (2, 2) and isinstance(network.maxpool, nn.MaxPool2d)
    assert network.forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 512, 2, 2)


def test_a_timm_transformer_takes_small_images():
    network = create("timm/vit_tiny_patch16_224")
    assert_speaks_the_interface(network, 192)
    assert network.pos_embed.shape == (1, 1 + 4, 192)


def test_feature_width_is_that_after_the_heads_hidden_layer():
    network = create("timm/mobilenetv3_small_050")
    assert network.num_features != network.head_hidden_size
    assert_speaks_the_interface(network, network.head_hidden_size)


def test_network_function_gets_the_default_normalization(users_module):
    network = create(f"{users_module}:tiny")
    assert_speaks_the_interface(network, 6)
    assert network.pretrained_cfg["mean"] == CIFAR100_MEAN and network.pretrained_cfg["std"] == CIFAR100_STD


def test_a_network_without_the_interface_is_told_what_it_lacks(users_module):
    message = refusal(f"{users_module}:plain")
    assert all(name in message for name in ("forward_features", "forward_head", "get_classifier", "num_features"))


def test_a_network_without_a_linear_classifier_is_refused(users_module):
    assert "nn.Linear" in refusal(f"{users_module}:without_linear")


def test_a_network_of_another_class_count_is_refused_with_both(users_module):
    message = refusal(f"{users_module}:fixed")
    assert "11 outputs" in message and "7 classes" in message


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (
            "without_classes",
            "cannot be called with num_classes alone (got an unexpected keyword argument 'num_classes')",
        ),
        ("with_depth", "cannot be called with num_classes alone (missing a required argument: 'depth')"),
        ("raises", "fails for num_classes=7 (RuntimeError: no such layer, in "),
        ("number", "returns a int"),
        ("CONSTANT", "cannot be called"),
    ],
)
def test_a_function_that_makes_no_network_is_refused(function, named, users_module):
    assert named in refusal(f"{users_module}:{function}")


def test_a_function_that_raises_is_told_where(users_module):
    line = USERS_MODULE.splitlines().index("def raises(num_classes):") + 2
    assert f"users_networks.py, line {line})" in refusal(f"{users_module}:raises")


@pytest.mark.parametrize("code", ["1 / 0", "def f(:"])
def test_a_module_that_cannot_be_imported_is_told_where(code, tmp_path, monkeypatch):
    (tmp_path / "broken_networks.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal("broken_networks:tiny")
    assert "cannot be imported (ZeroDivisionError" in message if code == "1 / 0" else "SyntaxError" in message


def test_a_module_is_found_where_the_command_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert f"importable from {tmp_path}" in refusal("networks_of_here:tiny")
    (tmp_path / "networks_of_here.py").write_text(USERS_MODULE)
    importlib.invalidate_caches()
    assert_speaks_the_interface(create("networks_of_here:tiny"), 6)


def test_a_network_of_another_number_of_channels_is_refused(users_module):
    name = f"{users_module}:gray"
    with refuses(rf"^--student {name}: cannot classify an image of 3 x 32 x 32 \(") as caught:
        build_network("student", name, None, TREE.names, 7, 32)
    assert len(str(caught.value).splitlines()) == 1


def test_a_network_whose_widths_disagree_is_refused(users_module):
    name = f"{users_module}:too_wide"
    with refuses(r"shape \(1, 6\), its num_features is 9, its classifier takes 6"):
        build_network("student", name, None, TREE.names, 7, 32)


@pytest.mark.parametrize("name", ["timm/inception_v3", "timm/vit_tiny_patch16_224"])
def test_an_image_too_small_for_a_network_is_refused(name):
    size = 32 if "inception" in name else 8
    with refuses(rf"^--teacher {name}: .*image.*{size}.*another network or --image-size") as caught:
        build_network("teacher", name, None, TREE.names, 7, size)
    assert len(str(caught.value).splitlines()) == 1


def test_a_trial_counts_operations():
    assert trial("resnet8", create("resnet8"), 32) == flops(lambda: create("resnet8")(torch.zeros(1, 3, 32, 32)))


def test_a_last_map_of_one_value_cannot_be_trained_alone():
    network = create("vgg8", image_size=32)
    network.features = nn.BatchNorm1d(7)
    network.register_forward_hook(lambda module, _, logits: module.features(logits))
    before = copy.deepcopy(network.state_dict())
    with refuses("^vgg8: cannot be trained on 1 image of 32 pixels at once .*--batch-size"):
        check_trains("vgg8", network, 32, images=1)
    check_trains("vgg8", network, 32, images=2)
    assert not network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("name", ["no_such_package:f", "users_networks:absent", "users_networks:", ":f", ".here:f"])
def test_a_function_that_cannot_be_imported_is_refused(name, users_module):
    assert "package.module:function" in refusal(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet8x5", "resnet8x4"),
        ("wrn_40-2", "wrn_40_2"),
        ("shufflev1", "ShuffleV1"),
        ("timm/resnet_18", "timm/resnet18"),
        ("timm/resnet18.tv_in2k", "timm/resnet18.tv_in1k"),
    ],
)
def test_an_unknown_name_brings_the_nearest(name, nearest):
    assert nearest in refusal(name).partition("nearest: ")[2].split(", ")


def test_a_name_that_only_timm_has_brings_timms_spelling():
    assert refusal("resnet18").endswith(" timm/resnet18")


def test_a_name_like_no_other_brings_the_trees_own():
    message = refusal("qqqqqq")
    assert "resnet8" in message and "timm/" not in message


@pytest.mark.parametrize("name", ["timm/vgg13", "vgg13"])
def test_a_name_of_both_is_the_trees_unless_timms_is_asked_for(name):
    with torch.device("meta"):
        parameters = parameter_count(create(name, num_classes=100))
    assert (parameters == 9462180) == (name == "vgg13")


def save_weights(path, num_classes):
    checkpoint.save(path, {"model": create("resnet8", num_classes).state_dict(), "epoch": 1})
    return str(path)


def built(weights, num_classes):
    return build_network("teacher", "resnet8", weights, TREE.names, num_classes, 32)


def test_a_network_is_filled_from_its_weights(tmp_path):
    weights = save_weights(tmp_path / "a.pt", 7)
    network = built(weights, 7)
    expected = checkpoint.read_weights(weights)
    assert all(torch.equal(value, expected[name]) for name, value in network.network.state_dict().items())
    assert network.loaded == f"{len(expected)} of {len(expected)} tensors loaded from {weights}"


@pytest.mark.parametrize("allow_partial", [False, True])
def test_weights_for_another_class_count_are_refused_with_both(allow_partial, tmp_path):
    weights = save_weights(tmp_path / "a.pt", 10)
    with refuses(r"--teacher-weights .*a\.pt: made for 10 classes, the data set has 7"):
        build_network("teacher", "resnet8", weights, TREE.names, 7, 32, allow_partial)


def test_absent_weights_are_refused_or_listed(tmp_path):
    weights = str(tmp_path / "absent.pth")
    config = TREE.config(METHODS["kd"](), student="resnet8", teacher="resnet8", teacher_weights=weights)
    config, absent = without_absent(config, TREE)
    assert config.networks.teacher_weights == "random"
    assert absent["teacher"].startswith(f"`teacher_weights` {weights}: no such file")
    with refuses("no such file"):
        built(weights, 7)


def test_a_file_absent_from_pretrained_brings_the_trees_remedy():
    message = weights_refusal("resnet8", "pretrained/resnet8_vanilla/absent.pth")
    looked_for = Path("pretrained/resnet8_vanilla/absent.pth").absolute()
    assert f"no such file, looked for {looked_for}; bash sh/fetch_pretrained_teachers.sh fetches it" in message
    assert "bash sh/train_cifar100_teacher.sh resnet8 trains it" in message


def test_teacher_file_without_classifier_is_always_refused(tmp_path):
    for dropped, allow_partial in ((["weight", "bias"], True), (["weight", "bias"], False), (["bias"], True)):
        tensors = create("resnet8").state_dict()
        for name in dropped:
            del tensors[f"fc.{name}"]
        checkpoint.save(tmp_path / "a.pt", tensors)
        named = ", ".join(f"fc.{name}" for name in dropped)
        with refuses(rf"no classifier \({named}\)") as caught:
            build_network("teacher", "resnet8", str(tmp_path / "a.pt"), TREE.names, 7, 32, allow_partial)
        assert len(str(caught.value).splitlines()) == 1 and "--allow-partial" not in str(caught.value)


def test_a_classifier_of_another_width_is_no_teachers(tmp_path):
    tensors = {**create("resnet8").state_dict(), "fc.weight": torch.ones(7, 32)}
    checkpoint.save(tmp_path / "a.pt", tensors)
    with refuses(r"no classifier \(fc.weight\)"):
        build_network("teacher", "resnet8", str(tmp_path / "a.pt"), TREE.names, 7, 32, allow_partial=True)


def test_a_student_may_start_without_its_probe(tmp_path):
    tensors = create("resnet8").state_dict()
    del tensors["fc.weight"], tensors["fc.bias"]
    checkpoint.save(tmp_path / "a.pt", tensors)
    built = build_network("student", "resnet8", str(tmp_path / "a.pt"), TREE.names, 7, 32, allow_partial=True)
    assert built.loaded.startswith(f"{len(tensors)} of {len(tensors) + 2} tensors loaded")


def test_averaged_weights_are_named_in_the_plan(tmp_path):
    torch.save({"state_dict": create("resnet8").state_dict(), "state_dict_ema": create("resnet8").state_dict()},
               tmp_path / "a.pth.tar")  # fmt: skip
    assert built(str(tmp_path / "a.pth.tar"), 7).loaded.endswith("a.pth.tar, its averaged weights (state_dict_ema)")


def normalization(name, **given):
    built = build_network("teacher", name, None, TREE.names, 7, 32, **given)
    cfg = built.network.pretrained_cfg
    return cfg["mean"], cfg["std"], built.describe()


@pytest.mark.parametrize("function", ["tiny", "half_stated"])
def test_a_normalization_that_is_assumed_is_told(function, users_module):
    mean, std, text = normalization(f"{users_module}:{function}")
    assert (mean, std) == (CIFAR100_MEAN, CIFAR100_STD)
    assert "mean 0.5071 0.4867 0.4408 and std 0.2675 0.2565 0.2761" in text and "states none" in text


@pytest.mark.parametrize("name", ["users_networks:stated", "resnet8"])
def test_a_normalization_that_is_stated_is_taken_without_a_word(name, users_module):
    mean, _, text = normalization(name)
    assert mean == ((0.5, 0.5, 0.5) if ":" in name else CIFAR100_MEAN) and "mean" not in text


@pytest.mark.parametrize("name", ["users_networks:tiny", "users_networks:stated", "resnet8"])
def test_a_normalization_that_is_given_replaces_any(name, users_module):
    mean, std, text = normalization(name, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (mean, std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "mean 0.1 0.2 0.3 and std 0.4 0.5 0.6" in text and "states none" not in text


NAMES = Names({"small": "test_vit.r160_in1k"}, CIFAR100_MEAN, CIFAR100_STD)


def weights_refusal(name, weights, names=TREE.names):
    with refuses() as caught:
        build_network("teacher", name, weights, names, 1000, 64)
    message = str(caught.value)
    assert message.startswith(f"--teacher-weights {weights}") and len(message.splitlines()) == 1
    return message


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache, empty, in a folder of its own; the hub does not answer."""

    def no_answer(url):
        raise OSError("Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_answer)
    return tmp_path / "cache" / "models--timm--test_vit.r160_in1k"


def save_published(path, num_classes=1000):
    """What timm publishes: a network for larger images."""
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=num_classes, img_size=160)
    path.parent.mkdir(parents=True)
    checkpoint.save_tensors(path, network.state_dict())
    return network.state_dict()


def assert_holds(built, published):
    """All but the position table are as published; that one fits the images of 64 pixels."""
    tensors = built.network.state_dict()
    differing = [name for name, value in published.items() if not torch.equal(value, tensors[name])]
    assert differing == ["pos_embed"] and tensors["pos_embed"].shape == (1, 1 + 4 * 4, 64)
    assert built.loaded == f"{len(tensors)} of {len(tensors)} tensors loaded from {built.file}"


@pytest.mark.parametrize("name", ["small", "timm/test_vit", "timm/test_vit.r160_in1k"])
def test_timms_weights_are_taken_from_a_file_fetched_by_hand(hub, name):
    published = save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    built = build_network("teacher", name, "timm", NAMES, 1000, 64)
    assert built.file == Path("pretrained/test_vit.r160_in1k.safetensors")
    assert_holds(built, published)


def test_timms_weights_are_taken_from_the_hubs_cache(hub):
    file = hub / "snapshots" / "0123" / "model.safetensors"
    published = save_published(file)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0123")
    built = build_network("teacher", "small", "timm", NAMES, 1000, 64)
    assert built.file == file
    assert_holds(built, published)


def test_timms_weights_are_fetched(hub, tmp_path, monkeypatch):
    published = save_published(tmp_path / "fetched" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: tmp_path / "fetched" / asked[1])
    assert_holds(build_network("teacher", "small", "timm", NAMES, 1000, 64), published)


def test_where_timms_weights_lie_changes_no_random_number(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    draws = []
    for weights in (None, "timm"):
        torch.manual_seed(3)
        build_network("teacher", "small", weights, NAMES, 1000, 64)
        draws.append(torch.rand(4))
    assert torch.equal(*draws)


URL = "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"


def test_unreachable_timm_weights_are_named_with_their_place(hub):
    message = weights_refusal("small", "timm", NAMES)
    assert "Name or service not known" in message
    assert message.endswith(f"fetch {URL} and save it as pretrained/test_vit.r160_in1k.safetensors")


def test_a_busy_hub_is_asked_again_and_is_not_the_users_fault(hub, tmp_path, monkeypatch):
    published = save_published(tmp_path / "fetched" / "model.safetensors")
    monkeypatch.setattr(retry, "PAUSES", (0, 0))
    busy = OSError("Service Unavailable")
    busy.response = SimpleNamespace(status_code=503)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: tmp_path / "fetched" / asked[1])
    for name in ("timm/test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"):
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", failing(lambda url: None, [busy] * 3))
        with pytest.raises(PassingFault, match="Service Unavailable.*tried 3 times"):
            build_network("teacher", name, "timm", NAMES, 1000, 64)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", failing(lambda url: None, [busy] * 2))
    assert_holds(build_network("teacher", "small", "timm", NAMES, 1000, 64), published)


def test_a_dry_run_lists_timms_weights_without_asking_the_hub(hub, monkeypatch):
    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    config = TREE.config(METHODS["kd"](), student="small", teacher="small", teacher_weights="timm")
    config, absent = without_absent(config, replace(TREE, names=NAMES))
    assert config.networks.teacher_weights == "random" and list(absent) == ["teacher"]
    assert URL in absent["teacher"] and "pretrained/test_vit.r160_in1k.safetensors" in absent["teacher"]


def test_timm_weights_of_other_class_count_are_refused(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    with refuses("--teacher-weights timm: made for 1000 classes, the data set has 7"):
        build_network("teacher", "small", "timm", NAMES, 7, 64)


def test_a_file_of_another_network_in_timms_place_is_refused(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"), num_classes=9)
    message = weights_refusal("small", "timm", NAMES)
    assert "size mismatch" in message and f"fetch {URL} again" in message


def test_a_network_that_timm_publishes_nothing_for_is_refused(hub, users_module):
    for name in ("resnet8", f"{users_module}:tiny"):
        assert "timm publishes no weights of" in weights_refusal(name, "timm")


@pytest.fixture
def published_folder(tmp_path):
    """A folder as timm's `save_for_hf` leaves one, of a network for images of 160 pixels."""
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=7, img_size=160)
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    timm.models.save_for_hf(network, tmp_path / "folder", safe_serialization=True)
    return tmp_path / "folder", network


@pytest.mark.parametrize("file", timm_sources.WEIGHTS)
def test_a_folder_of_timms_is_a_network_and_its_weights(file, published_folder):
    folder, network = published_folder
    if file != "model.safetensors":
        (folder / "model.safetensors").unlink()
        torch.save(network.state_dict(), folder / file)
    built = build_network("teacher", f"local-dir:{folder}", "timm", TREE.names, 7, 64)
    assert built.file == folder / file and "pos_embed resized" in built.loaded
    tensors = built.network.state_dict()
    differing = [name for name, value in network.state_dict().items() if not torch.equal(value, tensors[name])]
    assert differing == ["pos_embed"] and tuple(built.network.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)


def test_a_repository_of_the_hub_is_read_from_its_cache(hub, published_folder):
    folder, network = published_folder
    cached = hub.with_name("models--someone--network")
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123")
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / "0123")
    for name in ("hf-hub:someone/network", "hf_hub:someone/network", "hf-hub:someone/network@0123"):
        built = build_network("teacher", name, "timm", TREE.names, 7, 160)
        assert torch.equal(built.network.pos_embed, network.pos_embed)


def test_absent_timm_source_is_refused_in_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"architecture": "no_such_network"}))
    for name, named in (
        (f"local-dir:{tmp_path}/empty", "holds no config.json"),
        ("local-dir:~/empty", f"{tmp_path}/empty holds no config.json"),
        (f"local-dir:{tmp_path}/other", "Unknown model"),
        ("hf-hub:someone/network", "Name or service not known"),
        ("hf-hub:some one/net work", "Repo id"),
    ):
        assert named in refusal(name)


def test_a_folder_without_weights_is_refused_or_listed(published_folder):
    folder, _ = published_folder
    (folder / "model.safetensors").unlink()
    name = f"local-dir:{folder}"
    with refuses("holds no model.safetensors or pytorch_model.bin"):
        build_network("teacher", name, "timm", TREE.names, 7, 64)
    config = TREE.config(METHODS["kd"](), student="resnet8", teacher=name, teacher_weights="timm")
    assert list(without_absent(config, TREE)[1]) == ["teacher"]


def test_a_small_network_of_timms_keeps_its_stem_in_a_folder(tmp_path):
    """The zoo's own stems of stride 2 are left as they are."""
    network = create("MobileNetV2")
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    assert build_network("teacher", f"local-dir:{tmp_path}", "timm", TREE.names, 7, 32).network.conv1[0].stride == (
        2,
        2,
    )


def recomputing(name, **options):
    """Two networks of the same weights; the second recomputes its activations."""
    torch.manual_seed(0)
    networks = [timm.create_model(name, num_classes=5, **options).train()]
    networks.append(copy.deepcopy(networks[0]))
    recompute_activations(name, networks[1])
    return networks


def step(network, seed):
    """Loss and bytes kept for the backward pass, which fills the gradients."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(seed)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images).square().mean()
    loss.backward()
    return loss.detach(), sum(kept.values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("mobilenetv1_100", {}),
        ("cifar_resnet20", {}),
        ("test_vit", {"img_size": 32, "proj_drop_rate": 0.2}),
    ],
)
def test_recomputed_activations_change_no_result(name, options):
    """Nor the running statistics of batch norm, which meets each batch twice; nor what dropout draws."""
    networks = recomputing(name, **options)
    for seed in (1, 2):
        (loss, kept), (same_loss, less) = (step(network, seed) for network in networks)
        assert torch.equal(loss, same_loss) and less < 0.7 * kept
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one.grad, other.grad)
    for (buffer, value), other in zip(networks[0].named_buffers(), networks[1].buffers(), strict=True):
        assert torch.equal(value, other), buffer


def test_recomputed_activations_change_no_result_when_compiled():
    networks = recomputing("cifar_resnet8")
    networks[1].compile(backend="aot_eager")
    assert torch.equal(*(step(network, 1)[0] for network in networks))
    for one, other in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_recomputed_activations_under_ddp_change_no_result():
    networks = recomputing("cifar_resnet20")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(networks[1])
        for seed in (1, 2):
            assert torch.equal(step(networks[0], seed)[0], step(wrapped, seed)[0])
        del wrapped
        gc.collect()
    finally:
        dist.destroy_process_group()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one.grad, other.grad)
    for one, other in zip(*(network.buffers() for network in networks), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["toy:network", "timm/coat_tiny"])
def test_a_network_that_cannot_recompute_is_refused(name):
    with torch.device("meta"):
        network = create(name, image_size=224)
    with refuses(f"^{name} has no gradient checkpointing"):
        recompute_activations(name, network)


def test_flops_count_two_for_a_multiply_add():
    linear, convolution = nn.Linear(5, 7), nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    assert flops(lambda: linear(torch.zeros(4, 5))) == 2 * 4 * 5 * 7
    assert flops(lambda: convolution(torch.zeros(2, 3, 10, 10))) == 2 * (2 * 8 * 5 * 5) * (3 * 3 * 3)
    assert flops(lambda: linear(torch.zeros(1, 5)) @ torch.zeros(7, 2)) == 2 * 5 * 7 + 2 * 7 * 2
