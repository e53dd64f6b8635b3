"""Weights published by timm, and folders and repositories in timm's layout."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from faults import failing
from lines import refuses
from network_checks import create, refusal, weights_refusal
from programs import build_network

from gendd.core import files, retry
from gendd.core.errors import PassingFault
from gendd.methods import METHODS
from gendd.networks import timm_names
from gendd.networks.create import Zoo
from gendd.programs.dry_run import without_absent
from gendd_cifar.family import FAMILY
from gendd_cifar.models.zoo import CIFAR100_MEAN, CIFAR100_STD

NAMES = Zoo({"small": "test_vit.r160_in1k"}, CIFAR100_MEAN, CIFAR100_STD)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the empty cache of a hub that does not answer."""

    def no_answer(url):
        raise OSError("Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_answer)
    return tmp_path / "cache" / "models--timm--test_vit.r160_in1k"


def save_published(path, num_classes=1000):
    """Save a network for larger images, as timm publishes it."""
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=num_classes, img_size=160)
    path.parent.mkdir(parents=True)
    files.save_tensors(path, network.state_dict())
    return network.state_dict()


def assert_holds(built, published):
    """Assert that all tensors are the published ones, except the positions, which fit images of 64 pixels."""
    tensors = built.network.state_dict()
    differing = [name for name, value in published.items() if not torch.equal(value, tensors[name])]
    assert differing == ["pos_embed"] and tensors["pos_embed"].shape == (1, 1 + 4 * 4, 64)
    assert built.loaded == f"{len(tensors)} of {len(tensors)} tensors loaded from {built.file}"


@pytest.mark.parametrize("name", ["small", "timm/test_vit", "timm/test_vit.r160_in1k"])
def test_timm_weights_are_read_from_a_fetched_file(hub, name):
    published = save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    built = build_network("teacher", name, "timm", NAMES, 1000, 64)
    assert built.file == Path("pretrained/test_vit.r160_in1k.safetensors")
    assert_holds(built, published)


def test_timm_weights_are_read_from_the_hubs_cache(hub):
    file = hub / "snapshots" / "0123" / "model.safetensors"
    published = save_published(file)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0123")
    built = build_network("teacher", "small", "timm", NAMES, 1000, 64)
    assert built.file == file
    assert_holds(built, published)


def test_timm_weights_are_downloaded(hub, tmp_path, monkeypatch):
    published = save_published(tmp_path / "fetched" / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: tmp_path / "fetched" / asked[1])
    assert_holds(build_network("teacher", "small", "timm", NAMES, 1000, 64), published)


def test_loading_timm_weights_changes_no_random_number(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    draws = []
    for weights in (None, "timm"):
        torch.manual_seed(3)
        build_network("teacher", "small", weights, NAMES, 1000, 64)
        draws.append(torch.rand(4))
    assert torch.equal(*draws)


URL = "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"


def test_unreachable_timm_weights_name_address_and_path(hub):
    message = weights_refusal("small", "timm", NAMES)
    assert "Name or service not known" in message
    assert message.endswith(f"fetch {URL} and save it as pretrained/test_vit.r160_in1k.safetensors")


def test_busy_hub_is_retried_and_raises_no_user_error(hub, tmp_path, monkeypatch):
    published = save_published(tmp_path / "fetched" / "model.safetensors")
    monkeypatch.setattr(retry, "PAUSES", (0, 0))
    busy = OSError("Service Unavailable")
    busy.response = SimpleNamespace(status_code=503)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked: tmp_path / "fetched" / asked[1])
    for name in ("timm/test_vit.r160_in1k", "hf-hub:timm/test_vit.r160_in1k"):
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", failing(lambda url: None, [busy] * 3))
        with pytest.raises(PassingFault, match="Service Unavailable.*tried 3 times"):
            build_network("teacher", name, "timm", NAMES, 1000, 64)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", failing(lambda url: None, [busy] * 2))
    assert_holds(build_network("teacher", "small", "timm", NAMES, 1000, 64), published)


def test_dry_run_lists_timm_weights_without_the_hub(hub, monkeypatch):
    def asked(*_):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    config = FAMILY.config(METHODS["kd"](), student="small", teacher="small", teacher_weights="timm")
    config, absent = without_absent(config, NAMES)
    assert config.networks.teacher_weights == "random" and list(absent) == ["teacher"]
    assert URL in absent["teacher"] and "pretrained/test_vit.r160_in1k.safetensors" in absent["teacher"]


def test_timm_weights_of_other_class_count_are_refused(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"))
    with refuses("--teacher-weights timm: the weights have 1000 classes, the data set has 7"):
        build_network("teacher", "small", "timm", NAMES, 7, 64)


def test_file_of_other_network_as_timm_weights_is_refused(hub):
    save_published(Path("pretrained/test_vit.r160_in1k.safetensors"), num_classes=9)
    message = weights_refusal("small", "timm", NAMES)
    assert "size mismatch" in message and f"fetch {URL} again" in message


def test_network_without_published_timm_weights_is_refused(hub):
    for name in ("resnet8", "users_networks:tiny"):
        assert "timm publishes no weights of" in weights_refusal(name, "timm")


def test_misspelled_teacher_of_timm_is_named_with_similar_ones():
    for typed, nearest in (("timm/test_vitt", "timm/test_vit"), ("timm/test_vit.r160", "timm/test_vit.r160_in1k")):
        with refuses(f"--teacher {typed}: no such name; nearest: {nearest}"):
            build_network("teacher", typed, "timm", NAMES, 7, 64)


@pytest.fixture
def published_folder(tmp_path):
    """Save a network for images of 160 pixels with timm's `save_for_hf`; return the folder and the network."""
    torch.manual_seed(1)
    network = timm.create_model("test_vit", num_classes=7, img_size=160)
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    timm.models.save_for_hf(network, tmp_path / "folder", safe_serialization=True)
    return tmp_path / "folder", network


@pytest.mark.parametrize("file", timm_names.WEIGHTS)
def test_timm_folder_gives_network_and_weights(file, published_folder):
    folder, network = published_folder
    if file != "model.safetensors":
        (folder / "model.safetensors").unlink()
        torch.save(network.state_dict(), folder / file)
    built = build_network("teacher", f"local-dir:{folder}", "timm", FAMILY.zoo, 7, 64)
    assert built.file == folder / file and "pos_embed resized" in built.loaded
    tensors = built.network.state_dict()
    differing = [name for name, value in network.state_dict().items() if not torch.equal(value, tensors[name])]
    assert differing == ["pos_embed"] and tuple(built.network.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)


def test_hub_repository_is_read_from_its_cache(hub, published_folder):
    folder, network = published_folder
    cached = hub.with_name("models--someone--network")
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123")
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / "0123")
    for name in ("hf-hub:someone/network", "hf_hub:someone/network", "hf-hub:someone/network@0123"):
        built = build_network("teacher", name, "timm", FAMILY.zoo, 7, 160)
        assert torch.equal(built.network.pos_embed, network.pos_embed)


def test_absent_timm_source_is_refused_in_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"architecture": "no_such_network"}))
    for name, named in (
        (f"local-dir:{tmp_path}/empty", "holds no config.json"),
        ("local-dir:~/empty", f"{tmp_path}/empty holds no config.json"),
        (f"local-dir:{tmp_path}/other", "Unknown model"),
        ("hf-hub:someone/network", "Name or service not known"),
        ("hf-hub:some one/net work", "Repo id"),
    ):
        assert named in refusal(name)


def test_timm_folder_without_weights_is_refused_or_listed(published_folder):
    folder, _ = published_folder
    (folder / "model.safetensors").unlink()
    name = f"local-dir:{folder}"
    with refuses("holds no model.safetensors or pytorch_model.bin"):
        build_network("teacher", name, "timm", FAMILY.zoo, 7, 64)
    config = FAMILY.config(METHODS["kd"](), student="resnet8", teacher=name, teacher_weights="timm")
    assert list(without_absent(config, FAMILY)[1]) == ["teacher"]


def test_small_timm_network_in_a_folder_keeps_its_stem(tmp_path):
    """The zoo's stems of stride 2 are unchanged."""
    network = create("MobileNetV2")
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    assert build_network("teacher", f"local-dir:{tmp_path}", "timm", FAMILY.zoo, 7, 32).network.conv1[0].stride == (
        2,
        2,
    )
