"""The CIFAR zoo: sizes, timm's interface, RepDistiller's names."""

import pytest
import timm
import torch
from torch import nn

from gendd_cifar.models.zoo import NETWORKS

SIZES = {  # parameters with 100 classes, feature width
    "resnet8": (83892, 64),
    "resnet14": (181108, 64),
    "resnet20": (278324, 64),
    "resnet32": (472756, 64),
    "resnet44": (667188, 64),
    "resnet56": (861620, 64),
    "resnet110": (1736564, 64),
    "resnet8x4": (1233540, 256),
    "resnet32x4": (7433860, 256),
    "wrn_16_1": (180916, 64),
    "wrn_16_2": (703284, 128),
    "wrn_40_1": (569780, 64),
    "wrn_40_2": (2255156, 128),
    "vgg8": (3965028, 512),
    "vgg11": (9277284, 512),
    "vgg13": (9462180, 512),
    "vgg16": (14774436, 512),
    "vgg19": (20086692, 512),
    "ResNet50": (23705252, 2048),
    "MobileNetV2": (812836, 1280),
    "ShuffleV1": (949258, 960),
    "ShuffleV2": (1355528, 1024),
}
ONE_PER_FAMILY = ("resnet8", "wrn_16_1", "vgg8", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2")

# RepDistiller's parameter names: some that must exist, and the number of tensors per top-level name.
NAMES = {
    "resnet8": (
        ["conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.bn2.weight", "fc.bias"]
        + ["layer2.0.downsample.0.weight", "layer2.0.downsample.1.weight", "layer3.0.conv2.weight"],
        {"conv1": 1, "bn1": 2, "layer1": 6, "layer2": 9, "layer3": 9, "fc": 2},
    ),
    "wrn_16_1": (
        ["conv1.weight", "bn1.weight", "block1.layer.0.bn1.weight", "block1.layer.1.conv2.weight", "fc.weight"]
        + ["block2.layer.0.convShortcut.weight", "block3.layer.1.bn2.bias"],
        {"conv1": 1, "bn1": 2, "block1": 12, "block2": 13, "block3": 13, "fc": 2},
    ),
    "vgg11": (
        ["block0.0.weight", "block0.0.bias", "block0.1.weight", "block2.3.weight", "block2.4.bias", "block4.4.weight"]
        + ["classifier.weight", "classifier.bias"],
        {"block0": 4, "block1": 4, "block2": 8, "block3": 8, "block4": 8, "classifier": 2},
    ),
    "ResNet50": (
        ["conv1.weight", "bn1.weight", "layer1.0.shortcut.0.weight", "layer1.0.shortcut.1.bias", "linear.weight"]
        + ["layer1.2.conv3.weight", "layer3.5.bn3.weight", "layer4.0.shortcut.0.weight", "layer4.2.conv2.weight"],
        {"conv1": 1, "bn1": 2, "layer1": 30, "layer2": 39, "layer3": 57, "layer4": 30, "linear": 2},
    ),
    "MobileNetV2": (
        ["conv1.0.weight", "conv1.1.bias", "blocks.0.0.conv.0.weight", "blocks.1.1.conv.3.weight", "classifier.0.bias"]
        + ["blocks.6.0.conv.7.weight", "conv2.0.weight", "conv2.1.weight", "classifier.0.weight"],
        {"conv1": 3, "blocks": 17 * 9, "conv2": 3, "classifier": 2},
    ),
    "ShuffleV1": (
        ["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer2.7.bn3.bias", "layer3.3.conv3.weight"]
        + ["linear.weight"],
        {"conv1": 1, "bn1": 2, "layer1": 36, "layer2": 72, "layer3": 36, "linear": 2},
    ),
    "ShuffleV2": (
        ["conv1.weight", "bn1.weight", "layer1.0.conv5.weight", "layer1.0.bn5.bias", "layer2.7.conv3.weight"]
        + ["layer3.3.bn3.bias", "conv2.weight", "bn2.weight", "linear.bias"],
        {"conv1": 1, "bn1": 2, "layer1": 42, "layer2": 78, "layer3": 42, "conv2": 1, "bn2": 2, "linear": 2},
    ),
}


def create(name, **kwargs):
    return timm.create_model(f"cifar_{name}", **kwargs)


def test_zoo_is_registered():
    assert set(NETWORKS) == set(SIZES)
    assert set(timm.list_models("cifar_*")) == {f"cifar_{name}" for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_size_and_description(name):
    with torch.device("meta"):
        model = create(name)
    parameters, width = SIZES[name]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.num_features == model.head_hidden_size == width
    assert model.num_classes == 100

    cfg = model.pretrained_cfg
    assert cfg["input_size"] == (3, 32, 32) and cfg["num_classes"] == 100
    assert cfg["mean"] == (0.5071, 0.4867, 0.4408) and cfg["std"] == (0.2675, 0.2565, 0.2761)
    assert not cfg.get("url")
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert isinstance(model.get_classifier(), nn.Linear)
    assert model.get_submodule(cfg["first_conv"]).in_channels == 3


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_timm_interface(name):
    torch.manual_seed(0)
    model = create(name, num_classes=10).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        feature_map = model.forward_features(images)
        feature = model.forward_head(feature_map, pre_logits=True)
        logits = model(images)
        torch.testing.assert_close(feature, feature_map.mean(dim=(2, 3)))
        torch.testing.assert_close(logits, model.forward_head(feature_map))
        torch.testing.assert_close(logits, model.get_classifier()(feature))
        assert logits.shape == (2, 10) and logits.isfinite().all()

        model.reset_classifier(7)
        assert model.num_classes == 7 and model(images).shape == (2, 7)
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)

        model.reset_classifier(0)
        torch.testing.assert_close(model(images), feature)
        model.reset_classifier(3, global_pool="max")
        torch.testing.assert_close(model.forward_head(feature_map, pre_logits=True), feature_map.amax(dim=(2, 3)))


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_input_channels(name):
    model = create(name, in_chans=1).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 32, 32)).shape == (1, 100)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_trains_in_bf16_with_channels_last_and_checkpointing(name):
    """Every parameter gets a gradient, the images are unchanged, and gradient checkpointing changes nothing."""
    torch.manual_seed(0)
    model = create(name).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    before = images.clone()

    gradients = []
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images).float().square().mean()
        loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g is not None and g.isfinite().all() for g in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ONE_PER_FAMILY)
def test_compiles_without_graph_breaks(name):
    model = create(name).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), model(images))


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match="color"):
        create("resnet8", color="red")
    with pytest.raises(RuntimeError, match="No pretrained weights exist for cifar_resnet8"):
        create("resnet8", pretrained=True)


@pytest.mark.parametrize("name", NAMES)
def test_parameter_names_are_repdistillers(name):
    with torch.device("meta"):
        model = create(name)
    names = [parameter for parameter, _ in model.named_parameters()]
    expected, counts = NAMES[name]
    assert set(expected) <= set(names)
    tops = [parameter.split(".")[0] for parameter in names]
    assert {top: tops.count(top) for top in tops} == counts


def test_loads_a_repdistiller_checkpoint(shared):
    path = shared / "pretrained" / "resnet56_cifar100.pth"
    if not path.exists():
        pytest.skip(f"needs the optional teacher {path.name}")
    weights = torch.load(path, map_location="cpu", weights_only=True)["model"]
    model = create("resnet56")
    model.load_state_dict(weights, strict=True)
    assert torch.equal(model.get_classifier().weight, weights["fc.weight"])


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", "MobileNetV2"])
def test_classifier_of_wrn_vgg_and_mobilenet_starts_without_bias(name):
    """RepDistiller initializes these classifiers so."""
    classifier = create(name, num_classes=10).get_classifier()
    assert not classifier.bias.any() and classifier.weight.any()
