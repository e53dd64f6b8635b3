"""The classifier of networks, one or several."""

import timm
from timm.models.deit import VisionTransformerDistilled

from gendd.networks.checkpoint import load_weights
from gendd.networks.features import classifier_name


def test_weights_of_network_with_two_classifiers_are_loaded():
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 1, "num_classes": 0}
    network, other = VisionTransformerDistilled(**sizes), VisionTransformerDistilled(**sizes)
    assert classifier_name(network) is None
    count = len(other.state_dict())
    assert load_weights(network, other.state_dict(), "a.pth") == f"{count} of {count} tensors loaded"


def test_classifier_has_the_name_of_its_module():
    assert classifier_name(timm.create_model("test_resnet", num_classes=3)) == "fc"
