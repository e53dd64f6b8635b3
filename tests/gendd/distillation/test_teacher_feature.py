"""Class token and patch mean of timm's transformers, with registers and without."""

import pytest
import timm
import torch
from lines import refuses

from gendd.distillation.teacher_feature import width_of


@pytest.mark.parametrize("name", ["vit_wee_patch16_reg1_gap_256", "vit_mediumd_patch16_rope_reg1_gap_256"])
def test_register_is_no_class_token(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0, depth=1)
    assert network.num_prefix_tokens == 1
    with refuses("class-token: the network has no class token"):
        width_of(network, "class-token", 256)
    assert width_of(network, "patch-mean", 256) == network.num_features


@pytest.mark.parametrize("name", ["test_vit", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"])
def test_class_token_of_timm_is_found(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    assert width_of(network, "class-token", network.pretrained_cfg["input_size"][-1]) == network.num_features


@pytest.mark.parametrize(
    ("name", "reason"),
    [("crossvit_9_240", "the network gives no patches"), ("volo_d1_224", "its 197 tokens are not a square grid")],
)
def test_patch_mean_without_patches_alone_is_refused(name, reason):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    with refuses(reason):
        width_of(network, "patch-mean", network.pretrained_cfg["input_size"][-1])
