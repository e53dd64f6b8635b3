"""Weights from larger modules, and transformers for images of another size."""

import pytest
import timm
import torch
from lines import refuses
from programs import build_network
from toy import ToyNetwork

from gendd.core import files
from gendd.networks.checkpoint import load_weights
from gendd_cifar.family import FAMILY


def toy(seed=0, classes=5):
    torch.manual_seed(seed)
    return ToyNetwork(classes)


def prefixed(prefix, network):
    return {prefix + name: value for name, value in network.state_dict().items()}


def loaded(tensors, **options):
    network = toy(1)
    return network, load_weights(network, tensors, "a.ckpt", **options)


def assert_same(network, other):
    for name, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize("prefix", ["model.", "net.", "student.", "model.inner."])
@pytest.mark.parametrize("others", [{}, {"criterion.weight": torch.ones(5), "temperature": torch.ones(())}])
def test_network_is_found_inside_a_larger_module(prefix, others):
    network, summary = loaded({**prefixed(prefix, toy()), **others})
    assert summary == f"4 of 4 tensors loaded (those under {prefix})"
    assert_same(network, toy())


def test_fitting_network_of_two_is_loaded():
    network, summary = loaded({**prefixed("teacher.", toy(2, classes=7)), **prefixed("student.", toy())})
    assert "student." in summary
    assert_same(network, toy())


def test_two_fitting_networks_are_refused():
    tensors = {**prefixed("teacher.", toy(2)), **prefixed("student.", toy())}
    with refuses(r"^a.ckpt: holds 2 networks that fit, under student. and teacher.;"):
        loaded(tensors)


def test_few_matching_names_do_not_make_a_network():
    """One of four tensors has a name of the toy network behind a prefix."""
    other = {"block.classifier.weight": torch.ones(5, 64), "block.classifier.scale": torch.ones(5)}
    with refuses("0 of 4 tensors loaded"):
        loaded(other, allow_partial=True)


def test_network_under_prefix_must_be_complete():
    tensors = prefixed("model.", toy())
    del tensors["model.convolution.bias"]
    with refuses(r"3 of 4 .*1 missing \(convolution.bias"):
        loaded(tensors)


@pytest.mark.parametrize("size", [32, 64, 224])
def test_position_embeddings_are_resized_as_in_timm(size, tmp_path):
    torch.manual_seed(0)
    trained = timm.create_model("test_vit", num_classes=5, img_size=160)
    torch.save(trained.state_dict(), tmp_path / "vit.pth")
    built = build_network("teacher", "timm/test_vit", str(tmp_path / "vit.pth"), FAMILY.zoo, 5, size)
    assert built.loaded == f"80 of 80 tensors loaded (pos_embed resized) from {tmp_path / 'vit.pth'}"
    overlay = {"state_dict": trained.state_dict(), "num_classes": 5}
    expected = timm.create_model(
        "test_vit", num_classes=5, img_size=size, pretrained=True, pretrained_cfg_overlay=overlay
    )
    assert_same(built.network, expected)
    assert_same(built.network.head, trained.head)


@pytest.mark.parametrize("size", [160])
def test_fitting_position_embeddings_are_unchanged(size, tmp_path):
    trained = timm.create_model("test_vit", num_classes=5, img_size=size)
    files.save_tensors(tmp_path / "vit.safetensors", trained.state_dict())
    built = build_network("teacher", "timm/test_vit", str(tmp_path / "vit.safetensors"), FAMILY.zoo, 5, size)
    assert "resized" not in built.loaded
    assert_same(built.network, trained)


def test_student_without_classifier_gets_resized_positions(tmp_path):
    trained = timm.create_model("test_vit", num_classes=0, img_size=160)
    torch.save(trained.state_dict(), tmp_path / "vit.pth")
    built = build_network("student", "timm/test_vit", str(tmp_path / "vit.pth"), FAMILY.zoo, 5, 32)
    assert built.loaded.startswith("78 of 80 tensors loaded (without a classifier; pos_embed resized)")


def test_file_of_another_network_counts_missing_tensors(tmp_path):
    torch.save(timm.create_model("cifar_resnet8", num_classes=5).state_dict(), tmp_path / "a.pth")
    with refuses("of 80 tensors loaded: 78 missing .* 54 left over"):
        build_network("teacher", "timm/test_vit", str(tmp_path / "a.pth"), FAMILY.zoo, 5, 32)
