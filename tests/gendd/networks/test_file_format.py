"""Files that are not checkpoints: the error names their kind and never advises to run them."""

import bz2
import gzip
import io
import lzma
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from lines import refuses
from torch import nn

from gendd.networks.checkpoint import read_weights

WEIGHTS = {"conv.weight": torch.arange(600.0).view(6, 100), "fc.bias": torch.tensor([1.0, -2.0])}


def filled(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def zipped(buffer):
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/weights.pth", filled(lambda inner: torch.save(WEIGHTS, inner)))


def scripted(buffer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), buffer)


# File contents, and how the error calls them.
FILES = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 102502400\n", "a Git LFS pointer"),
    "html": (b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>", "a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
    "gzip": (gzip.compress(filled(lambda buffer: torch.save(WEIGHTS, buffer))), "gunzip"),
    "bzip2": (bz2.compress(bytes(9)), "bunzip2"),
    "xz": (lzma.compress(bytes(9)), "unxz"),
    "text": (b'{"error": "not found"}\n', 'a text that begins with "{"error": "not found"}"'),
    "zip": (filled(zipped), "unzip"),
    "npz": (filled(lambda buffer: np.savez(buffer, kernel=np.ones(3))), "a NumPy archive"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0" + bytes(100), "an ONNX model"),
    "script": (filled(scripted), "a TorchScript program"),
    "pickle": (pickle.dumps({"conv.weight": np.ones(3)}), "a plain pickle"),
}


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
@pytest.mark.parametrize(("content", "named"), FILES.values(), ids=FILES)
def test_other_file_is_refused_with_its_kind(content, named, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with refuses(f"^{tmp_path / name}: no checkpoint but ") as caught:
        read_weights(tmp_path / name)
    message = str(caught.value)
    assert named in message and "weights_only" not in message and len(message.splitlines()) == 1


def test_unknown_file_gives_no_advice_to_run_it(tmp_path):
    (tmp_path / "a.pth").write_bytes(bytes(range(256)) * 9)
    with refuses("truncated or no checkpoint") as caught:
        read_weights(tmp_path / "a.pth")
    assert "weights_only" not in str(caught.value) and "arbitrary code" not in str(caught.value)


def test_saved_module_is_refused_with_its_class(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    with refuses(r"\(torch.nn.modules.linear.Linear\).*save its state_dict alone"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["a.bin", "a.pth", "a"])
def test_safetensors_are_read_with_any_extension(name, tmp_path):
    (tmp_path / name).write_bytes(safetensors.torch.save(WEIGHTS))
    tensors = read_weights(tmp_path / name)
    assert all(torch.equal(tensors[key], value) for key, value in WEIGHTS.items())


def test_torch_files_are_read_with_any_extension(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(filled(lambda buffer: torch.save(WEIGHTS, buffer)))
    assert read_weights(tmp_path / "a.safetensors").keys() == WEIGHTS.keys()
