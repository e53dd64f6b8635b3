"""The networks of the paper's ImageNet pairs: sizes, timm's stems, and published networks with other names."""

import pytest
import timm
import torch
import torchvision
from programs import build_network
from torch import nn

from gendd.core.files import save
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.student import Student
from gendd.networks.checkpoint import backbone_weights, load_weights, read_weights
from gendd.networks.cost import parameter_count
from gendd.networks.create import create_network
from gendd.networks.features import feature_width, pooled_feature
from gendd_imagenet.family import FAMILY
from gendd_imagenet.models.zoo import NETWORKS

SIZES = {  # million parameters with 1000 classes, feature width
    "resnet18": (11.69, 512),
    "resnet34": (21.80, 512),
    "resnet50": (25.56, 2048),
    "mobilenetv1": (4.23, 1024),
    "beitv2_base": (86.53, 768),
    "beitv2_large": (304.43, 1024),
    "resnext101_32x4d": (44.18, 2048),
}


def create(name, num_classes=1000, image_size=64):
    torch.manual_seed(0)
    return create_network(name, FAMILY.zoo, num_classes, image_size)


@pytest.mark.parametrize("name", SIZES)
def test_size_width_and_normalization(name):
    with torch.device("meta"):
        network = create(name, image_size=224)
    millions, width = SIZES[name]
    assert round(parameter_count(network) / 1e6, 2) == millions
    assert feature_width(network) == network.get_classifier().in_features == width
    assert network.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)
    assert network.pretrained_cfg["std"] == (0.229, 0.224, 0.225)


def test_zoo_selects_published_weights_by_tag():
    assert set(NETWORKS) == set(SIZES)
    tagged = set(timm.list_pretrained())
    assert {name for name, in_timm in NETWORKS.items() if in_timm not in tagged} == {"mobilenetv1"}


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18.a1_in1k"])
def test_networks_keep_timms_stem_at_any_size(name):
    network = create(name, num_classes=5).eval()
    assert network.conv1.stride == (2, 2) and isinstance(network.maxpool, nn.MaxPool2d)
    assert network.forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 512, 2, 2)


class PublishedMobileNetV1(nn.Module):
    """The network as published by distillation papers."""

    def __init__(self, num_classes):
        super().__init__()

        def convolution(inputs, outputs, size, stride, groups=1):
            layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
            return layer, nn.BatchNorm2d(outputs), nn.ReLU()

        def separable(inputs, outputs, stride):
            return nn.Sequential(
                *convolution(inputs, inputs, 3, stride, groups=inputs), *convolution(inputs, outputs, 1, 1)
            )

        widths = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        self.model = nn.Sequential(
            nn.Sequential(*convolution(3, 32, 3, 2)),
            *(separable(*shape) for shape in zip(widths, widths[1:], strides, strict=False)),
            nn.AvgPool2d(7),
        )
        self.fc = nn.Linear(1024, num_classes)

    def feature(self, images):
        return self.model(images).flatten(1)


def published_mobilenetv1(num_classes=5):
    """Return a random network in which every tensor changes the output, with activations above 6."""
    torch.manual_seed(1)
    network = PublishedMobileNetV1(num_classes).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.weight, 1, 2), (module.running_var, 0.05, 0.1)):
                nn.init.uniform_(values, low, high)
            for values in (module.bias, module.running_mean):
                nn.init.uniform_(values, -0.5, 0.5)
    return network


IMAGES = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))


def in_container(path, tensors):
    """Write a file in the paper's format for ImageNet."""
    save(path, {"epoch": 99, "state_dict": {f"module.{name}": value for name, value in tensors.items()}})
    return str(path)


@torch.no_grad()
def test_published_mobilenetv1_gives_same_feature_and_logits(tmp_path):
    theirs = published_mobilenetv1()
    weights = in_container(tmp_path / "mobilenetv1.pth", theirs.state_dict())
    built = build_network("teacher", "mobilenetv1", weights, FAMILY.zoo, 5, 224)
    size = len(theirs.state_dict())
    assert built.loaded == f"{size} of {size} tensors loaded from {weights}"
    feature = theirs.feature(IMAGES)
    torch.testing.assert_close(pooled_feature(built.network, IMAGES), feature, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(built.network(IMAGES), theirs.fc(feature), rtol=1e-4, atol=1e-4)
    assert theirs.model[:1](IMAGES).max() > 6, "ReLU6 would give the same result"


def students():
    """Return published networks by our names."""
    torch.manual_seed(3)
    resnet = torchvision.models.resnet18(num_classes=5).eval()
    resnet.feature = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    return {"mobilenetv1": published_mobilenetv1(), "resnet18": resnet}


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenetv1", "resnet18"])
def test_published_student_gives_the_same_predictions(name, tmp_path):
    theirs = students()[name]
    width = theirs.fc.in_features
    norm, classifier = nn.LayerNorm(width), nn.Linear(16, 5)
    head = SplitTokenHead(16, width, token_dim=8, width=12, **PAPER | {"depth": 1})
    tensors = {f"model.{key}": value for key, value in theirs.state_dict().items() if not key.startswith("feature.")}
    parts = {"cls_projector.0": norm, "diffloss.net": head.net, "classifier": classifier}
    for prefix, part in parts.items():
        nn.init.normal_(next(part.parameters()))
        tensors |= {f"{prefix}.{key}": value for key, value in part.state_dict().items()}
    tensors |= {"cls_centers": torch.ones(5, 16), "chunk_idx": torch.arange(2)[None]}

    fresh = SplitTokenHead(16, width, token_dim=8, width=12, **PAPER | {"depth": 1})
    student = Student(create(name, num_classes=5, image_size=224), fresh, nn.Linear(16, 5)).eval()
    read = read_weights(in_container(tmp_path / "student.pth", tensors))
    size = len(student.state_dict())
    assert load_weights(student, read, "it") == f"{size} of {size} tensors loaded"

    feature = theirs.feature(IMAGES)
    generated = head.sample(norm(feature), start=800).mean(1)
    expected = {"head": classifier(generated), "probe": theirs.fc(feature)}
    torch.testing.assert_close(student.outputs(IMAGES, start=800), expected, rtol=1e-3, atol=1e-3)

    plain = create(name, num_classes=5, image_size=224)
    load_weights(plain, backbone_weights(read), "it")
    torch.testing.assert_close(plain.state_dict(), student.backbone.state_dict(), rtol=0, atol=0)


def test_mobilenetv1_convolutions_start_with_torchs_values():
    """Torch draws uniformly within 1 / sqrt(fan in); timm draws from a wider normal distribution."""
    for name, module in create("mobilenetv1").named_modules():
        if isinstance(module, nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
