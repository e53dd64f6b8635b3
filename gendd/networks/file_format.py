"""Detection of file formats by the first bytes: safetensors, torch.save, or a file that is often mistaken for them."""

import tarfile
import zipfile
from pathlib import Path
from textwrap import shorten

# First bytes of torch.save's files: a zip archive; before version 1.6, a pickled number.
ZIP, LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# First bytes of compressed files, and the command that unpacks each.
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
    """Return whether a file begins like a file of torch.save."""
    return begin_of(path).startswith((ZIP, LEGACY))


def is_safetensors(path: Path) -> bool:
    """Return whether a file is safetensors, by its content: a length, then JSON of this length."""
    begin = begin_of(path)
    return begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= path.stat().st_size - 8


def what_it_is(path: Path) -> str | None:
    """Describe a file in another format and the remedy; return None if the format is unknown."""
    begin = begin_of(path)
    text = begin.lstrip().lower()
    if begin.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer to the file; fetch the file with git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page that the server sent in place of the file; check the address and fetch the file again"
    if tarfile.is_tarfile(path):
        return f"an archive; unpack it first: tar xf {path}"
    for mark, command in COMPRESSED.items():
        if begin.startswith(mark):
            return f"a compressed file; unpack it first: {command} {path}"
    if begin.startswith(b"\x89HDF\r\n"):
        return "an HDF5 file, such as Keras writes; convert it to named tensors of PyTorch"
    if path.suffix == ".onnx" or (begin[:1] == b"\x08" and b"pytorch" in begin[:32]):
        return "an ONNX model, whose tensors have other names; use the state_dict that it was exported from"
    if begin.startswith(ZIP) and zipfile.is_zipfile(path):
        return _what_a_zip_is(path)
    if begin.startswith(b"\x80") and begin[: len(LEGACY)] != LEGACY[: len(begin)]:
        return "a plain pickle, which is not loaded for safety; save the tensors with torch.save or safetensors"
    if begin.isascii() and begin.decode().replace("\n", " ").strip().isprintable() and begin.strip():
        return f'a text that begins with "{shorten(begin.decode(), 60)}"; check where it comes from'
    return None


def _what_a_zip_is(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    if "constants.pkl" in names:
        return "a TorchScript program, which is not loaded for safety; save torch.jit.load(...).state_dict()"
    if "data.pkl" in names:
        # torch.save compresses nothing, so that a file needs no more memory than its size.
        return "a compressed copy of a file of torch.save; fetch the original" if packed else None
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive; convert it to named tensors of PyTorch"
    return f"an archive; unpack it first: unzip {path}"
