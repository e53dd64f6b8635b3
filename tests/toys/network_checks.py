"""Create networks for small images by name, and check one-line errors about names and weights."""

import torch
from lines import refuses
from programs import build_network

from gendd.networks.create import create_network
from gendd.networks.features import feature_width, pooled_feature
from gendd_cifar.family import FAMILY


def create(name, num_classes=7, image_size=32):
    torch.manual_seed(0)
    return create_network(name, FAMILY.zoo, num_classes, image_size).eval()


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


def weights_refusal(name, weights, names=FAMILY.zoo):
    with refuses() as caught:
        build_network("teacher", name, weights, names, 1000, 64)
    message = str(caught.value)
    assert message.startswith(f"--teacher-weights {weights}") and len(message.splitlines()) == 1
    return message
