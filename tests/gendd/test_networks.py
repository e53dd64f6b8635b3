"""Networks by short name, from timm and from a user's own function; their weights' class count; FLOPs."""

import pytest
import torch
from torch import nn

from gendd import checkpoint
from gendd.errors import UserError
from gendd.networks import create_network, feature_width, flops, parameter_count, pooled_feature
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


def test_flops_count_two_for_a_multiply_add():
    linear, convolution = nn.Linear(5, 7), nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    assert flops(lambda: linear(torch.zeros(4, 5))) == 2 * 4 * 5 * 7
    assert flops(lambda: convolution(torch.zeros(2, 3, 10, 10))) == 2 * (2 * 8 * 5 * 5) * (3 * 3 * 3)
    assert flops(lambda: linear(torch.zeros(1, 5)) @ torch.zeros(7, 2)) == 2 * 5 * 7 + 2 * 7 * 2
