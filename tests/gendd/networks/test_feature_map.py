"""The feature map of networks of any family, and its grid."""

import pytest
import timm
import torch
from lines import refuses
from torch import nn

import gendd  # noqa: F401
from gendd.networks.feature_map import features_and_map, how_pooled, map_of, on_grid

FAMILIES = [
    ("test_resnet", {}),
    ("test_vit", {"img_size": 64}),
    ("test_vit2", {"img_size": 64}),
    ("test_convnext", {}),
    ("test_efficientnet", {}),
    ("test_mambaout", {}),
    ("swin_tiny_patch4_window7_224", {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "window_size": 2}),
    ("vit_small_patch16_dinov3", {"img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 2}),
]


@pytest.mark.parametrize("name, options", FAMILIES, ids=[name for name, _ in FAMILIES])
def test_map_of_a_shifted_image_shifts_along(name, options):
    """Change one corner of an image: the map changes most in the same corner."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0, **options).eval()
    images = torch.randn(1, 3, 64, 64).repeat(2, 1, 1, 1)
    images[1, :, :16, 48:] = torch.randn(3, 16, 16)
    with torch.no_grad():
        maps = map_of(network, network.forward_features(images))
    assert maps.shape[1] == network.num_features and maps.shape[2] == maps.shape[3] > 1
    changed = (maps[1] - maps[0]).square().sum(0)
    right_top = changed[: maps.shape[2] // 2, maps.shape[3] // 2 :].sum()
    left_bottom = changed[maps.shape[2] // 2 :, : maps.shape[3] // 2].sum()
    assert right_top > left_bottom


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "mobilenetv3_small_050"])
def test_maps_of_stages_are_those_of_timms_features_only(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0).eval()
    layers = (2, 3)
    pyramid = timm.create_model(name, features_only=True, out_indices=layers).eval()
    pyramid.load_state_dict({key: network.state_dict()[key] for key in pyramid.state_dict()})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features, maps = features_and_map(network, images, layers)
        torch.testing.assert_close(features, network.forward_features(images))
        fine, coarse = pyramid(images)
    expected = torch.cat([fine, nn.functional.interpolate(coarse, fine.shape[2:], mode="bilinear")], 1)
    torch.testing.assert_close(maps, expected)


def test_missing_stages_are_refused():
    network = timm.create_model("test_resnet", num_classes=0)
    with refuses("2 9: not a stage of ResNet"):
        features_and_map(network, torch.zeros(1, 3, 32, 32), (2, 9))
    with refuses("1: Identity gives only its last map; leave it out"):
        features_and_map(nn.Identity(), torch.zeros(1, 3, 32, 32), [1])


def test_grid_of_an_oblong_transformer_is_timms():
    network = timm.create_model("test_vit", num_classes=0, img_size=(32, 64)).eval()
    assert map_of(network, network.forward_features(torch.randn(1, 3, 32, 64))).shape[2:] == (2, 4)


@pytest.mark.parametrize("features", [torch.zeros(2, 5), torch.zeros(2, 5, 8), None])
def test_features_without_a_grid_are_refused(features):
    with refuses("no map; choose another network|5 tokens are not a square grid"):
        map_of(nn.Identity(), features)


def test_single_token_is_a_map_of_one_location():
    assert map_of(nn.Module(), torch.zeros(2, 1, 5)).shape == (2, 5, 1, 1)


def test_grid_averages_cells_or_enlarges():
    whole = torch.arange(16.0).view(1, 1, 4, 4)
    assert on_grid(whole, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert on_grid(whole, 8).shape == (1, 1, 8, 8) and on_grid(whole, 8)[0, 0, 0, 0] == 0
    assert torch.equal(on_grid(whole, 4), whole)
    # A map smaller in one direction only: between the centers of two columns.
    row = torch.tensor([0.0, 1.0]).expand(1, 1, 4, 2)
    for narrow in (row, row.mT):
        assert on_grid(narrow, 4).unique().tolist() == [0, 0.25, 0.75, 1]


def test_plan_states_how_maps_reach_the_grid():
    assert how_pooled((8, 8), 4) == "8x8 pooled to 4x4"
    assert how_pooled((2, 2), 4) == "2x2 resized to 4x4"
    assert how_pooled((4, 4), 4) == "4x4"
