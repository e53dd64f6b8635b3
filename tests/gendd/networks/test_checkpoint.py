"""Weights and checkpoints: all containers, and files that are refused."""

import argparse
import io
import math
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from lines import refuses
from torch import nn

import gendd_cifar.models  # noqa: F401  (registers the zoo with timm)
from gendd.core import files
from gendd.core.errors import InvalidValue
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.student import Student
from gendd.networks.checkpoint import backbone_weights, load_weights, metadata, read, read_weights
from gendd.runs.folder import embedded_record

WEIGHTS = {"conv.weight": torch.arange(600.0).view(6, 100), "fc.bias": torch.tensor([1.0, -2.0])}


def torch_bytes(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def legacy_bytes(content):
    """Return bytes in torch's format before version 1.6, which RepDistiller's files use."""
    return torch_bytes(content, _use_new_zipfile_serialization=False)


def written(path, content):
    path.write_bytes(content)
    return path


def refusal(function, *arguments, **options):
    with refuses(kind=InvalidValue) as caught:
        function(*arguments, **options)
    message = caught.value
    assert len(message.splitlines()) == 1
    return message


def assert_same(tensors, expected):
    assert set(tensors) == set(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def prefixed(prefix, tensors=WEIGHTS):
    return {prefix + name: value for name, value in tensors.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"epoch": 240, "model": WEIGHTS, "accuracy": 71.9},
        {"state_dict": prefixed("module.")},
        {"model": prefixed("_orig_mod."), "optimizer": {"state": {}, "param_groups": []}},
        prefixed("module._orig_mod."),
        prefixed("_orig_mod.module."),
        {"model": WEIGHTS, "args": argparse.Namespace(lr=0.1, milestones=[150, 180], data="x")},
        {"model_state_dict": WEIGHTS, "epoch": 3},
        {"net": prefixed("module."), "acc": 71.9, "scaler": {"scale": 2.0}},
        {"my_student": WEIGHTS, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}},
    ],
    ids=["plain", "model", "state_dict", "compiled", "wrapped", "wrapped twice", "namespace", "model_state_dict"]
    + ["net", "only one"],
)
@pytest.mark.parametrize("write", [torch_bytes, legacy_bytes])
def test_weights_are_found_in_every_container(content, write, tmp_path):
    assert_same(read_weights(written(tmp_path / "a.pth", write(content))), WEIGHTS)


def test_weights_under_two_unknown_keys_are_refused(tmp_path):
    content = {"encoder": WEIGHTS, "momentum_encoder": WEIGHTS, "epoch": 3}
    told = refusal(read_weights, written(tmp_path / "a.pth", torch_bytes(content)))
    assert "named tensors under encoder, momentum_encoder; save the state_dict of one alone" in told


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema_state_dict", "params_ema"])
def test_averaged_weights_are_preferred_and_named(average, tmp_path):
    raw = {name: value + 1 for name, value in WEIGHTS.items()}
    for content, note in (({"state_dict": raw, average: WEIGHTS}, f"averaged weights ({average})"),
                          ({"state_dict": WEIGHTS, average: None}, "")):  # fmt: skip
        tensors = read_weights(written(tmp_path / "a.pth", torch_bytes(content)))
        assert_same(tensors, WEIGHTS)
        assert note in tensors.note and bool(note) == bool(tensors.note)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_found_in_safetensors(prefix, tmp_path):
    safetensors.torch.save_file(prefixed(prefix), tmp_path / "a.safetensors")
    assert_same(read_weights(tmp_path / "a.safetensors"), WEIGHTS)


def test_run_folder_gives_its_last_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    files.save(tmp_path / "checkpoints" / "best.pt", {"model": {"other": torch.ones(1)}})
    files.save(tmp_path / "checkpoints" / "last.pt", {"model": WEIGHTS, "epoch": 3})
    assert_same(read_weights(str(tmp_path)), WEIGHTS)


def student():
    torch.manual_seed(0)
    head = SplitTokenHead(feature_dim=16, cond_dim=64, token_dim=8, width=12, **PAPER | {"depth": 1})
    return Student(timm.create_model("cifar_resnet8", num_classes=5), head, nn.Linear(16, 5))


def published(module):
    """Rename a student's tensors as in published checkpoints, and add the buffers of those files."""
    renamed = {"cls_centers": torch.ones(5, 16), "chunk_idx": torch.arange(2)[None]}
    theirs = {"backbone.": "model.", "norm.": "cls_projector.0.", "head.net.": "diffloss.net.", "classifier.": None}
    for name, value in module.state_dict().items():
        for ours, prefix in theirs.items():
            if name.startswith(ours):
                renamed[(prefix or ours) + name.removeprefix(ours)] = value
    return renamed


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_published_student_fills_every_tensor(container, tmp_path):
    module = student()
    tensors = published(module)
    content = {"model": tensors} if container == "model" else {"state_dict": prefixed("module.", tensors)}
    path = written(tmp_path / "student_last.pth", torch_bytes({**content, "args": argparse.Namespace(K=30)}))

    read = read_weights(path)
    fresh = student()
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    size = len(module.state_dict())
    assert load_weights(fresh, read, "it") == f"{size} of {size} tensors loaded"
    assert_same(fresh.state_dict(), module.state_dict())
    assert_same(backbone_weights(read), module.backbone.state_dict())


def test_backbone_of_plain_network_is_the_network():
    assert_same(backbone_weights(WEIGHTS), WEIGHTS)


class TouchesAFile:
    """A pickled object that creates a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [torch_bytes, legacy_bytes])
def test_pickle_with_code_is_refused_without_running(write, tmp_path):
    trace = tmp_path / "trace"
    path = written(tmp_path / "a.pth", write({"model": WEIGHTS, "extra": TouchesAFile(trace)}))
    assert "not loaded for safety" in refusal(read_weights, path)
    assert embedded_record(path) == {}
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "this file would not have run anything"


def test_damaged_safetensors_file_has_no_metadata(tmp_path):
    file = tmp_path / "student.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1)}, file, {"config": "{}"})
    assert metadata(file) == {"config": "{}"}
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"{0" + content[10:])
    assert metadata(file) == {}
    with refuses("truncated or no checkpoint"):
        read_weights(file)


def test_bare_pickle_is_refused_without_running(tmp_path):
    trace = tmp_path / "trace"
    for protocol in (2, pickle.DEFAULT_PROTOCOL):
        content = pickle.dumps({"state_dict": WEIGHTS, "extra": TouchesAFile(trace)}, protocol=protocol)
        path = written(tmp_path / "a.pth", content)
        assert "not loaded for safety" in refusal(read_weights, path)
        assert embedded_record(path) == {}
    assert not trace.exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_archive_is_not_taken_for_a_checkpoint(mode, tmp_path):
    inner = written(tmp_path / "inner.pth", torch_bytes(WEIGHTS))
    path = tmp_path / "cifar_teachers.tar"
    with tarfile.open(path, mode) as archive:
        archive.add(inner, "inner.pth")
    assert f"unpack it first: tar xf {path}" in refusal(read_weights, path)


@pytest.mark.parametrize("write", [torch_bytes, legacy_bytes, safetensors.torch.save])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(write, share, tmp_path):
    content = write(WEIGHTS)
    name = "a.safetensors" if write is safetensors.torch.save else "a.pth"
    path = written(tmp_path / name, content[: int(share * len(content))])
    message = refusal(read_weights, path)
    assert "truncated or no checkpoint" in message and str(path) in message
    assert_same(read_weights(written(path, content)), WEIGHTS)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"hello world", bytes(range(256)) * 9])
def test_files_of_other_kinds_are_refused(name, content, tmp_path):
    assert "no checkpoint" in refusal(read_weights, written(tmp_path / name, content))


@pytest.mark.parametrize(
    ("content", "named"),
    [([torch.ones(2)], "a list"), (torch.ones(2), "a Tensor"), ({"epoch": 3}, "no weights"), ({}, "no weights")]
    # Optimizer names, a tensor without values, and a sparse layout.
    + [({0: torch.ones(2)}, "no weights"), ({"model": {("a", 1): torch.ones(2)}}, "no weights")]
    + [({"a": torch.ones(2, device="meta")}, "no weights"), ({"a": torch.ones(2).to_sparse()}, "no weights")],
)
def test_files_without_named_tensors_are_refused(content, named, tmp_path):
    assert named in refusal(read_weights, written(tmp_path / "a.pth", torch_bytes(content)))


def test_missing_file_is_named_with_its_remedy(tmp_path):
    message = refusal(read_weights, tmp_path / "gone.pth")
    assert f"{tmp_path}/gone.pth: no such file; check the path" in message
    assert "checkpoints/last.pt" in refusal(read_weights, tmp_path)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def other_weights(**changes):
    """Return weights for `network`, all 7; a change to None drops a tensor."""
    tensors = {name: torch.full_like(value, 7) for name, value in network().state_dict().items()}
    tensors.update({name.replace("__", "."): value for name, value in changes.items()})
    return {name: value for name, value in tensors.items() if value is not None}


def test_checkpoint_without_batch_counters_is_complete():
    module, tensors = network(), other_weights(**{"1__num_batches_tracked": None})
    network().load_state_dict(tensors, strict=True)
    summary = load_weights(module, tensors, "a.pth", allow_partial=False)
    assert summary == "8 of 9 tensors loaded (1 num_batches_tracked set to 0, as in old files)"
    counter = module.state_dict().pop("1.num_batches_tracked")
    assert counter == 0 and all((value == 7).all() for name, value in module.state_dict().items() if "num" not in name)


def test_checkpoint_without_a_norm_is_incomplete():
    tensors = {name: value for name, value in other_weights().items() if not name.startswith("1.")}
    assert "5 missing (1.weight, 1.bias, 1.running_mean" in refusal(load_weights, network(), tensors, "a")


def test_all_tensors_are_loaded_and_counted():
    module = network()
    assert load_weights(module, other_weights(), "a.pth") == "9 of 9 tensors loaded"
    assert all((value == 7).all() for value in module.state_dict().values())


UNFIT = {
    "missing": ({"0__bias": None}, ["8 of 9", "1 missing (0.bias"]),
    "left over": ({"fc__weight": torch.ones(2)}, ["9 of 9", "1 left over (fc.weight"]),
    "shape": ({"2__weight": torch.ones(3, 4)}, ["8 of 9", "2.weight is (3, 4), not (2, 4)"]),
}


@pytest.mark.parametrize(("changes", "named"), UNFIT.values(), ids=UNFIT)
def test_unfitting_weights_load_nothing(changes, named):
    module = network()
    message = refusal(load_weights, module, other_weights(**changes), "a.pth", allow_partial=False)
    assert all(word in message for word in [*named, "a.pth", "--allow-partial"])
    # A program without this flag does not recommend it.
    assert "--allow-partial" not in refusal(load_weights, module, other_weights(**changes), "a.pth")
    assert_same(module.state_dict(), network().state_dict())


@pytest.mark.parametrize(("changes", "named"), UNFIT.values(), ids=UNFIT)
def test_partial_load_is_allowed_on_request(changes, named):
    module, untouched = network(), network().state_dict()
    summary = load_weights(module, other_weights(**changes), "a.pth", allow_partial=True)
    assert summary == f"{named[0]} tensors loaded"
    kept = {name.replace("__", ".") for name in changes} & set(untouched)
    for name, value in module.state_dict().items():
        assert torch.equal(value, untouched[name]) if name in kept else (value == 7).all()


class Renamed(nn.Module):
    """Network published as `body.0`, with `fc` as its classifier."""

    published_names = {"body.0": "layer"}

    def __init__(self):
        super().__init__()
        self.layer, self.output = nn.Linear(4, 4), nn.Linear(4, 2)

    def get_classifier(self):
        return self.output


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("classifier", ["fc", "output"])
def test_network_loads_its_published_names(prefix, classifier):
    theirs = {"layer": "body.0", "output": classifier}
    original, module = Renamed(), nn.ModuleDict({"backbone": Renamed()}) if prefix else Renamed()
    tensors = {}
    for name, value in original.state_dict().items():
        layer, _, tensor = name.partition(".")
        tensors[f"{prefix}{theirs[layer]}.{tensor}"] = value
    assert load_weights(module, tensors, "a.pth") == "4 of 4 tensors loaded"
    assert_same(module.state_dict(), prefixed(prefix, original.state_dict()))


def test_classifier_under_two_names_is_refused():
    tensors = {**Renamed().state_dict(), "fc.weight": torch.ones(2, 4)}
    assert "1 left over (fc.weight" in refusal(load_weights, Renamed(), tensors, "a.pth")


def test_student_weights_of_other_class_count_are_refused():
    tensors = prefixed("backbone.", {**Renamed().state_dict(), "output.weight": torch.ones(3, 4)})
    module = nn.ModuleDict({"backbone": Renamed()})
    message = refusal(load_weights, module, tensors, "a.pth", allow_partial=True)
    assert "the weights have 3 classes, the data set has 2" in message


@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize(
    ("classes", "own", "note"),
    [
        (3, 2, " (without its classifier of 3 classes)"),
        (3, 0, " (without its classifier of 3 classes)"),
        (0, 2, " (without a classifier)"),
        (0, 0, ""),
        (2, 2, ""),
    ],
)
def test_training_starts_without_a_classifier_of_others(classes, own, note, prefix):
    original, plain = (timm.create_model("test_resnet", num_classes=number) for number in (classes, own))
    module = nn.ModuleDict({"backbone": plain}) if prefix else plain
    expected = {**plain.state_dict(), **{key: value for key, value in original.state_dict().items() if "fc" not in key}}
    expected = original.state_dict() if classes == own else expected
    read = len(expected) - (0 if classes == own or own == 0 else 2)
    tensors = prefixed(prefix, original.state_dict())
    summary = load_weights(module, tensors, "a.pth", allow_partial=False, initial=True)
    assert summary == f"{read} of {len(expected)} tensors loaded{note}"
    assert_same(plain.state_dict(), expected)
    damaged = {name: value for name, value in tensors.items() if "conv1" not in name}
    assert "missing" in refusal(load_weights, module, damaged, "a.pth", allow_partial=False, initial=True)


def test_weights_of_another_network_are_refused_as_partial():
    message = refusal(load_weights, network(), WEIGHTS, "a.pth", allow_partial=True)
    assert "0 of 9" in message and "--allow-partial" not in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_weights_are_refused(value):
    weights = other_weights()
    name = next(iter(weights))
    weights[name] = torch.full_like(weights[name], value)
    assert f"a.pth: {name} holds values that are not finite" in refusal(load_weights, network(), weights, "a.pth")


def test_real_teacher_is_read(shared):
    path = shared / "pretrained" / "resnet56_cifar100.pth"
    if not path.exists():
        pytest.skip(f"needs the optional teacher {path.name}")
    tensors = read_weights(path)
    model = timm.create_model("cifar_resnet56", num_classes=100)
    size = len(model.state_dict())
    assert load_weights(model, tensors, str(path)) == f"{size} of {size} tensors loaded"


@pytest.mark.parametrize("write", [torch_bytes, legacy_bytes])
@pytest.mark.parametrize(
    "value", [np.float64(0.75), np.float32(0.5), np.float16(2), np.int64(-3), np.uint8(200), np.bool_(True)]
)
def test_numpy_scalars_are_read_as_plain_numbers(write, value, tmp_path):
    content = write({"state_dict": WEIGHTS, "best_acc": value})
    for core in (b"numpy._core.", b"numpy.core."):
        file = written(tmp_path / "a.pth", content if core == b"numpy._core." else write_old(content))
        found = read(file)["best_acc"]
        assert found == value and type(found) is type(value.item())
        assert_same(read_weights(file), WEIGHTS)


def write_old(content: bytes) -> bytes:
    """Return a checkpoint with the name that NumPy 1 gave to its scalars."""
    if not content.startswith(b"PK"):
        return content.replace(b"numpy._core.", b"numpy.core.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(buffer, "w") as old:
        for member in archive.infolist():
            old.writestr(member, archive.read(member).replace(b"numpy._core.", b"numpy.core."))
    return buffer.getvalue()


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), np.datetime64("2026-01-01"), np.str_("a")])
def test_other_numpy_objects_are_refused(value, tmp_path):
    file = written(tmp_path / "a.pth", torch_bytes({"state_dict": WEIGHTS, "extra": value}))
    assert "not loaded for safety" in refusal(read_weights, file)


def test_compressed_checkpoint_is_refused(tmp_path):
    """A zip bomb: torch would unpack a file of 100 KB to 64 MB of weights."""
    stored = io.BytesIO(torch_bytes({"fc.weight": torch.zeros(4096, 4096)}))
    with zipfile.ZipFile(stored) as archive, zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    assert (tmp_path / "a.pth").stat().st_size < 100_000 and embedded_record(tmp_path / "a.pth") == {}
    assert "no checkpoint but a compressed copy of a file of torch.save" in refusal(read_weights, tmp_path / "a.pth")
