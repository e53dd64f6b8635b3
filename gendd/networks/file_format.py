"""What a file really is, by its beginning: safetensors, torch.save's, or one that is often given in their place."""

import tarfile
import zipfile
from pathlib import Path
from textwrap import shorten

# How torch.save begins its files: as a zip archive; before version 1.6 with a pickled number.
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# How compressed files begin, and what unpacks them.
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"7z\xbc\xaf\x27\x1c": "7z x",
}


def begin_of(path: Path, count: int = 512) -> bytes:
    with open(path, "rb") as file:
        return file.read(count)


def is_torch(path: Path) -> bool:
    """Whether a file begins as torch.save begins one."""
    return begin_of(path).startswith((ZIP, LEGACY))


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its ending: a length, and JSON that is as long."""
    begin = begin_of(path)
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= path.stat().st_size - 8


def what_it_is(path: Path) -> str | None:
    """What a file is that is neither, and what to do about it; None where its beginning does not tell."""
    begin = begin_of(path)
    text = begin.lstrip().lower()
    if begin.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, which stands for the file; fetch that with git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the server answered with it in place of the file: fetch it again, and look at the address"
    if tarfile.is_tarfile(path):
        return f"an archive; unpack it first: tar xf {path}"
    for mark, command in COMPRESSED.items():
        if begin.startswith(mark):
            return f"a compressed file; unpack it first: {command} {path}"
    if begin.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file, such as Keras writes; convert it to named tensors of PyTorch"
    if path.suffix == ".onnx" or (begin[:1] == b"\x08" and b"pytorch" in begin[:32]):
        return "an ONNX model, whose tensors do not have the network's names; take the state_dict it was exported from"
    if begin.startswith(ZIP) and zipfile.is_zipfile(path):
        return _what_a_zip_is(path)
    if begin.startswith(b"\x80") and begin[: len(LEGACY)] != LEGACY[: len(begin)]:
        return "a plain pickle, which is not loaded for safety; save the tensors with torch.save or safetensors"
    if begin.isascii() and begin.decode().replace("\n", " ").strip().isprintable() and begin.strip():
        return f'a text, which begins with "{shorten(begin.decode(), 60)}"; look at where it comes from'
    return None


def _what_a_zip_is(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        return "a TorchScript program, which is not loaded for safety; save torch.jit.load(...).state_dict()"
    if "data.pkl" in names:
        return None
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive; convert it to named tensors of PyTorch"
    return f"an archive; unpack it first: unzip {path}"
