"""Networks by short name, from timm and from a user's own function; where their weights come from; recomputed
activations; FLOPs."""

import copy
import gc
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gendd import checkpoint
from gendd.errors import UserError
from gendd.networks import (
    Names,
    create_network,
    feature_width,
    flops,
    parameter_count,
    pooled_feature,
    recompute_activations,
)
from gendd.programs.build import build_network
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
    return create_network("--student", name, TREE.names, num_classes, image_size).eval()


def refusal(name):
    with pytest.raises(UserError) as caught:
        create(name)
    message = str(caught.value)
    assert message.startswith(f"--student {name}: ") and len(message.splitlines()) == 1
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
def test_a_timm_network_keeps_small_images_resolution_in_its_stem():
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


def test_a_width_behind_a_hidden_layer_of_the_head_is_the_feature_width():
    network = create("timm/mobilenetv3_small_050")
    assert network.num_features != network.head_hidden_size
    assert_speaks_the_interface(network, network.head_hidden_size)


def test_a_users_function_makes_a_network_in_the_trees_normalisation(users_module):
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


def built(weights, num_classes, missing=None):
    return build_network("teacher", "resnet8", weights, TREE.names, num_classes, 32, missing=missing)


def test_a_network_is_filled_from_its_weights(tmp_path):
    weights = save_weights(tmp_path / "a.pt", 7)
    network = built(weights, 7)
    expected = checkpoint.read_weights(weights, "-")
    assert all(torch.equal(value, expected[name]) for name, value in network.network.state_dict().items())
    assert network.loaded == f"{len(expected)} of {len(expected)} tensors loaded from {weights}"


@pytest.mark.parametrize("allow_partial", [False, True])
def test_weights_for_another_class_count_are_refused_with_both(allow_partial, tmp_path):
    weights = save_weights(tmp_path / "a.pt", 10)
    with pytest.raises(UserError, match=r"--teacher-weights .*a\.pt: made for 10 classes, the data set has 7"):
        build_network("teacher", "resnet8", weights, TREE.names, 7, 32, allow_partial)


def test_absent_weights_are_refused_or_listed(tmp_path):
    weights, missing = str(tmp_path / "absent.pth"), []
    assert built(weights, 7, missing).loaded == "random weights"
    assert len(missing) == 1 and missing[0].startswith(f"--teacher-weights {weights}: no such file")
    with pytest.raises(UserError, match="no such file"):
        built(weights, 7)


def test_a_file_absent_from_pretrained_brings_the_trees_remedy():
    message = weights_refusal("resnet8", "pretrained/resnet8_vanilla/absent.pth")
    assert "absent.pth: no such file; bash sh/fetch_pretrained_teachers.sh" in message
    assert "bash sh/train_cifar100_teacher.sh resnet8 trains it" in message


NAMES = Names({"small": "test_vit.r160_in1k"}, CIFAR100_MEAN, CIFAR100_STD)


def weights_refusal(name, weights, names=TREE.names):
    with pytest.raises(UserError) as caught:
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
    built = build_network("teacher", "small", "timm", NAMES, 1000, 64, missing=[])
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


def test_timms_weights_that_are_out_of_reach_are_named_with_their_place(hub):
    message = weights_refusal("small", "timm", NAMES)
    assert "Name or service not known" in message
    assert message.endswith(f"fetch {URL} and save it as pretrained/test_vit.r160_in1k.safetensors")


def test_a_dry_run_lists_timms_weights_without_asking_the_hub(hub, monkeypatch):
    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    missing = []
    built = build_network("teacher", "small", "timm", NAMES, 1000, 64, missing=missing)
    assert built.loaded == "random weights" and built.file is None
    assert len(missing) == 1 and URL in missing[0] and "pretrained/test_vit.r160_in1k.safetensors" in missing[0]


def test_timms_weights_for_another_class_count_are_refused_with_both(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    with pytest.raises(UserError, match="--teacher-weights timm: made for 1000 classes, the data set has 7"):
        build_network("teacher", "small", "timm", NAMES, 7, 64)


def test_a_file_of_another_network_in_timms_place_is_refused(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"), num_classes=9)
    message = weights_refusal("small", "timm", NAMES)
    assert "size mismatch" in message and f"fetch {URL} again" in message


def test_a_network_that_timm_publishes_nothing_for_is_refused(hub, users_module):
    for name in ("resnet8", f"{users_module}:tiny"):
        assert "timm publishes no weights of" in weights_refusal(name, "timm")


def recomputing(name, **options):
    """Two networks of the same weights; the second recomputes its activations."""
    torch.manual_seed(0)
    networks = [timm.create_model(name, num_classes=5, **options).train()]
    networks.append(copy.deepcopy(networks[0]))
    recompute_activations("--grad-checkpointing student", name, networks[1])
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


def test_recomputed_activations_change_no_result_behind_distributed_data_parallel():
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
    with pytest.raises(UserError, match=f"^--grad-checkpointing student: {name} has no gradient checkpointing"):
        recompute_activations("--grad-checkpointing student", name, network)


def test_flops_count_two_for_a_multiply_add():
    linear, convolution = nn.Linear(5, 7), nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    assert flops(lambda: linear(torch.zeros(4, 5))) == 2 * 4 * 5 * 7
    assert flops(lambda: convolution(torch.zeros(2, 3, 10, 10))) == 2 * (2 * 8 * 5 * 5) * (3 * 3 * 3)
    assert flops(lambda: linear(torch.zeros(1, 5)) @ torch.zeros(7, 2)) == 2 * 5 * 7 + 2 * 7 * 2
