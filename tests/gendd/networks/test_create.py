"""Networks by short name and from timm, and their weights."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from lines import refuses
from network_checks import assert_speaks_the_interface, create, refusal, weights_refusal
from programs import build_network
from torch import nn

from gendd.core import files
from gendd.methods import METHODS
from gendd.networks import checkpoint
from gendd.networks.cost import flops, parameter_count
from gendd.networks.create import check_trains, trial
from gendd.programs.dry_run import without_absent
from gendd_cifar.family import FAMILY
from gendd_cifar.models.zoo import CIFAR100_MEAN, CIFAR100_STD


def test_short_name_gives_the_familys_network():
    network = create("vgg8")
    assert_speaks_the_interface(network, 512)
    assert parameter_count(network) == 3965028 - 93 * 513
    assert network.pretrained_cfg["mean"] == CIFAR100_MEAN and network.pretrained_cfg["std"] == CIFAR100_STD


@torch.no_grad()
def test_timm_stem_keeps_resolution_of_small_images():
    network = create("timm/resnet18")
    assert network.conv1.stride == (1, 1) and isinstance(network.maxpool, nn.Identity)
    # Stages 2 to 4 halve it three times, from 32 to 4; the stem for large images would leave 1.
    assert network.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    assert_speaks_the_interface(network, 512)


@torch.no_grad()
def test_timm_network_keeps_its_stem_for_large_images():
    network = create("timm/resnet18", image_size=224)
    assert network.conv1.stride == (2, 2) and isinstance(network.maxpool, nn.MaxPool2d)
    assert network.forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 512, 2, 2)


def test_timm_transformer_takes_small_images():
    network = create("timm/vit_tiny_patch16_224")
    assert_speaks_the_interface(network, 192)
    assert network.pos_embed.shape == (1, 1 + 4, 192)


def test_feature_width_is_the_heads_hidden_width():
    network = create("timm/mobilenetv3_small_050")
    assert network.num_features != network.head_hidden_size
    assert_speaks_the_interface(network, network.head_hidden_size)


@pytest.mark.parametrize("name", ["timm/inception_v3", "timm/vit_tiny_patch16_224"])
def test_image_too_small_for_a_network_is_refused(name):
    size = 32 if "inception" in name else 8
    with refuses(rf"^--teacher {name}: .*image.*{size}.*another network or --image-size") as caught:
        build_network("teacher", name, None, FAMILY.zoo, 7, size)
    assert len(str(caught.value).splitlines()) == 1


def test_network_that_loses_its_classifier_is_refused():
    # timm's own function fails for this network without classes.
    with torch.device("meta"):
        network = timm.create_model("efficientvit_m0", num_classes=0)
    with refuses("timm/efficientvit_m0: cannot classify an image .* choose another network"):
        trial("timm/efficientvit_m0", network, 224)


def test_trial_counts_flops():
    assert trial("resnet8", create("resnet8"), 32) == flops(lambda: create("resnet8")(torch.zeros(1, 3, 32, 32)))


def test_network_without_spatial_extent_needs_two_images():
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
def test_unknown_name_gives_the_nearest_names(name, nearest):
    assert nearest in refusal(name).partition("nearest: ")[2].split(", ")


def test_timm_name_without_prefix_gives_timms_spelling():
    assert refusal("resnet18").endswith(" timm/resnet18")


def test_name_unlike_all_others_gives_the_familys_names():
    message = refusal("qqqqqq")
    assert "resnet8" in message and "timm/" not in message


@pytest.mark.parametrize("name", ["timm/vgg13", "vgg13"])
def test_prefix_selects_timms_network_of_a_shared_name(name):
    with torch.device("meta"):
        parameters = parameter_count(create(name, num_classes=100))
    assert (parameters == 9462180) == (name == "vgg13")


def save_weights(path, num_classes):
    files.save(path, {"model": create("resnet8", num_classes).state_dict(), "epoch": 1})
    return str(path)


def built(weights, num_classes):
    return build_network("teacher", "resnet8", weights, FAMILY.zoo, num_classes, 32)


def test_network_loads_its_weights(tmp_path):
    weights = save_weights(tmp_path / "a.pt", 7)
    network = built(weights, 7)
    expected = checkpoint.read_weights(weights)
    assert all(torch.equal(value, expected[name]) for name, value in network.network.state_dict().items())
    assert network.loaded == f"{len(expected)} of {len(expected)} tensors loaded from {weights}"


@pytest.mark.parametrize("allow_partial", [False, True])
def test_weights_of_other_class_count_name_both_counts(allow_partial, tmp_path):
    weights = save_weights(tmp_path / "a.pt", 10)
    with refuses(r"--teacher-weights .*a\.pt: the weights have 10 classes, the data set has 7"):
        build_network("teacher", "resnet8", weights, FAMILY.zoo, 7, 32, allow_partial)


def test_absent_weights_are_refused_or_listed(tmp_path):
    weights = str(tmp_path / "absent.pth")
    config = FAMILY.config(METHODS["kd"](), student="resnet8", teacher="resnet8", teacher_weights=weights)
    config, absent = without_absent(config, FAMILY)
    assert config.networks.teacher_weights == "random"
    assert absent["teacher"].startswith(f"`teacher_weights` {weights}: no such file")
    with refuses("no such file"):
        built(weights, 7)


def test_file_absent_from_pretrained_names_both_scripts():
    message = weights_refusal("resnet8", "pretrained/resnet8_vanilla/absent.pth")
    looked_for = Path("pretrained/resnet8_vanilla/absent.pth").absolute()
    assert f"no such file, looked for {looked_for}; train --recipe resnet8 trains it, and its run folder" in message
    assert "bash sh/fetch_pretrained_teachers.sh fetches it" in message


def test_teacher_file_without_classifier_is_always_refused(tmp_path):
    for dropped, allow_partial in ((["weight", "bias"], True), (["weight", "bias"], False), (["bias"], True)):
        tensors = create("resnet8").state_dict()
        for name in dropped:
            del tensors[f"fc.{name}"]
        files.save(tmp_path / "a.pt", tensors)
        named = ", ".join(f"fc.{name}" for name in dropped)
        with refuses(rf"no classifier \({named}\)") as caught:
            build_network("teacher", "resnet8", str(tmp_path / "a.pt"), FAMILY.zoo, 7, 32, allow_partial)
        assert len(str(caught.value).splitlines()) == 1 and "--allow-partial" not in str(caught.value)


def test_teacher_file_with_wider_classifier_is_refused(tmp_path):
    tensors = {**create("resnet8").state_dict(), "fc.weight": torch.ones(7, 32)}
    files.save(tmp_path / "a.pt", tensors)
    with refuses(r"no classifier \(fc.weight\)"):
        build_network("teacher", "resnet8", str(tmp_path / "a.pt"), FAMILY.zoo, 7, 32, allow_partial=True)


def test_student_may_start_without_its_probe(tmp_path):
    tensors = create("resnet8").state_dict()
    del tensors["fc.weight"], tensors["fc.bias"]
    files.save(tmp_path / "a.pt", tensors)
    built = build_network("student", "resnet8", str(tmp_path / "a.pt"), FAMILY.zoo, 7, 32, allow_partial=True)
    assert built.loaded.startswith(f"{len(tensors)} of {len(tensors) + 2} tensors loaded")


def test_plan_names_averaged_weights(tmp_path):
    torch.save({"state_dict": create("resnet8").state_dict(), "state_dict_ema": create("resnet8").state_dict()},
               tmp_path / "a.pth.tar")  # fmt: skip
    assert built(str(tmp_path / "a.pth.tar"), 7).loaded.endswith("a.pth.tar, its averaged weights (state_dict_ema)")


def normalization(name, **given):
    built = build_network("teacher", name, None, FAMILY.zoo, 7, 32, **given)
    cfg = built.network.pretrained_cfg
    return cfg["mean"], cfg["std"], built.describe()


@pytest.mark.parametrize("function", ["tiny", "half_stated"])
def test_assumed_normalization_is_described(function):
    mean, std, text = normalization(f"users_networks:{function}")
    assert (mean, std) == (CIFAR100_MEAN, CIFAR100_STD)
    assert "mean 0.5071 0.4867 0.4408 and std 0.2675 0.2565 0.2761" in text and "states none" in text


@pytest.mark.parametrize("name", ["users_networks:stated", "resnet8"])
def test_stated_normalization_is_not_described(name):
    mean, _, text = normalization(name)
    assert mean == ((0.5, 0.5, 0.5) if ":" in name else CIFAR100_MEAN) and "mean" not in text


@pytest.mark.parametrize("name", ["users_networks:tiny", "users_networks:stated", "resnet8"])
def test_given_normalization_overrides_any(name):
    mean, std, text = normalization(name, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert (mean, std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert "mean 0.1 0.2 0.3 and std 0.4 0.5 0.6" in text and "states none" not in text


def test_flops_count_two_per_multiply_add():
    linear, convolution = nn.Linear(5, 7), nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
    assert flops(lambda: linear(torch.zeros(4, 5))) == 2 * 4 * 5 * 7
    assert flops(lambda: convolution(torch.zeros(2, 3, 10, 10))) == 2 * (2 * 8 * 5 * 5) * (3 * 3 * 3)
    assert flops(lambda: linear(torch.zeros(1, 5)) @ torch.zeros(7, 2)) == 2 * 5 * 7 + 2 * 7 * 2
