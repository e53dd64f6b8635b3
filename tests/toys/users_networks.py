"""Functions that create networks, as a user might write them, valid and invalid."""

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
    raise RuntimeError("no such\nlayer")


def number(num_classes):
    return num_classes


CONSTANT = 3


def without_linear(num_classes):
    network = Tiny(num_classes)
    network.output = nn.Identity()
    return network
