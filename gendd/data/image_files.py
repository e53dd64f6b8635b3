"""Lists of the image files below a folder, with or without classes. Both families use the same rule.

A file is an image if its extension is one of `decode.ENDINGS`, or if it has no extension but an image's header. Broken
images are listed too, so that they are reported. Hidden files, hidden folders and all other files are skipped and
counted. Links are followed, except links to a folder that contains them.
"""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from gendd.core.errors import InvalidValue, UserError, no_such
from gendd.core.retry import retried
from gendd.data.decode import ENDINGS, begins_as_image
from gendd.data.names import Names

# Number of kinds of skipped files to list by name, the most frequent ones.
KINDS_TOLD = 6
# Threads that ask a file system for sizes: a network's file system answers many questions at once.
ASKING = 16
# Number of files to ask for at the same time; a waiting question takes 1 kB.
ASKED = 10_000
# Number of files whose contents are compared, of a data set of any size.
MOST_SAMPLED = 1000
HIDDEN, NO_ENDING = "hidden", "without an ending"


@dataclass(frozen=True)
class ImageFiles:
    """N image files below a folder.

    Args:
        names: N paths relative to `root`, in order.
        labels: (N,) int64, the class of each image; None where folders are not classes.
        classes: the names of the classes; empty where folders are not classes.
        passed_over: number of skipped files and folders of each kind.
    """

    root: Path
    names: Names
    labels: np.ndarray | None
    classes: list[str]
    passed_over: Counter[str]


def list_images(root: Path) -> ImageFiles:
    """List all images below a folder, without classes, in the order of their paths.

    Raises:
        InvalidValue: the folder is missing or holds no images.
    """
    if not root.is_dir():
        raise InvalidValue(root, f"{no_such(root, 'folder')}; name a folder of images")
    passed_over: Counter[str] = Counter()
    names = Names.of(_walk(str(root), b"", frozenset(), passed_over))
    if not len(names):
        raise InvalidValue(root, f"holds no image{aside(passed_over)}; name a folder of images")
    return ImageFiles(root, names, None, [], passed_over)


def list_class_folders(root: Path, split: str) -> ImageFiles:
    """List the images of root/split/<class>/, class by class. The names begin with the split.

    Raises:
        InvalidValue: the class folders are missing, or one of them is empty.
    """
    needs = f"it needs {split}/<class>/<image> files"
    classes = class_names(root / split)
    if not classes:
        raise InvalidValue(root, f"{split}/ is missing or holds no class folder; {needs}")
    number = {os.fsencode(name): label for label, name in enumerate(classes)}
    passed_over: Counter[str] = Counter()
    found = array("q")

    def inside() -> Iterator[bytes]:
        for name in _walk(str(root / split), b"", frozenset(), passed_over):
            folder, slash, _ = name.partition(b"/")
            if slash:
                found.append(number[folder])
                yield os.fsencode(f"{split}/") + name
            else:
                passed_over["outside the class folders"] += 1

    names, labels = Names.of(inside()), np.array(found, np.int64)
    empty = [classes[label] for label in sorted(set(range(len(classes))) - set(found))]
    if empty:
        more = f" and {len(empty) - 5} others" if len(empty) > 5 else ""
        raise InvalidValue(
            root, f"no image in {split}/ for the classes {', '.join(empty[:5])}{more}{aside(passed_over)}; {needs}"
        )
    # The sort is stable: the images of a class keep their order.
    order = labels.argsort(kind="stable")
    return ImageFiles(root, names.select(order), labels[order], classes, passed_over)


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders, in the order of their labels; empty if `folder` is missing.

    The order is alphabetical, as in torchvision. If all names are numbers, it is numerical, as in timm: 2 precedes 10.
    """
    if not folder.is_dir():
        return []
    inside = (name for name in _entries(str(folder)) if name.endswith(b"/") and not _hidden(name))
    names = sorted(os.fsdecode(name[:-1]) for name in inside)
    if all(name.isascii() and name.isdecimal() for name in names):
        names.sort(key=int)
    return names


def checksum(root: Path, names: Iterable[bytes | str]) -> str:
    """Return the SHA-256 of the names and sizes of files below a folder. A missing file has no size."""

    def described(name: bytes | str) -> bytes:
        path = os.fsdecode(name)
        try:
            size = str(os.stat(root / path).st_size)
        except FileNotFoundError:
            size = "missing"
        return os.fsencode(f"{path} {size}\n")

    digest, rest = hashlib.sha256(), iter(names)
    with ThreadPoolExecutor(ASKING) as pool:
        while some := list(islice(rest, ASKED)):
            for line in pool.map(described, some):
                digest.update(line)
    return digest.hexdigest()


def sampled(count: int) -> list[int]:
    """Return the indices of up to `MOST_SAMPLED` of `count` images, evenly spaced."""
    most = min(count, MOST_SAMPLED)
    return [place * (count - 1) // max(1, most - 1) for place in range(most)]


def contents(root: Path, names: Names) -> str:
    """Return the SHA-256 of the contents of the `sampled` files below a folder. A missing file counts as empty."""

    def content(index: int) -> bytes:
        path = root / os.fsdecode(names[index])
        try:
            return hashlib.sha256(retried(path.read_bytes, path)).digest()
        except FileNotFoundError:
            return b""

    with ThreadPoolExecutor(ASKING) as pool:
        return hashlib.sha256(b"".join(pool.map(content, sampled(len(names))))).hexdigest()


def describe(passed_over: Counter[str]) -> str:
    """Return the counts of skipped files, such as "3 hidden, 2 .txt"; "" if nothing was skipped."""
    named = [f"{count} {kind}" for kind, count in passed_over.most_common(KINDS_TOLD)]
    others = passed_over.total() - sum(count for _, count in passed_over.most_common(KINDS_TOLD))
    return ", ".join([*named, *([f"{others} others"] if others else [])])


def ending_of(path: str) -> str:
    return os.path.splitext(path)[1].lower() or NO_ENDING


def aside(passed_over: Counter[str]) -> str:
    return f" (passed over: {describe(passed_over)})" if passed_over else ""


def _walk(folder: str, below: bytes, around: frozenset, passed_over: Counter[str]) -> Iterator[bytes]:
    """Yield the paths of all images in a folder and its folders, in order, and count all other entries by kind.

    Args:
        below: beginning of the paths to yield.
        around: identities of the folder's parent folders.
    """
    here = os.stat(folder)
    if (here.st_dev, here.st_ino) in around:
        passed_over["links to a folder around them"] += 1
        return
    inside = around | {(here.st_dev, here.st_ino)}
    for name in _entries(folder):
        path = os.path.join(folder, os.fsdecode(name))
        if _hidden(name):
            passed_over[HIDDEN] += 1
        elif name.endswith(b"/"):
            yield from _walk(path, below + name, inside, passed_over)
        elif _claims_to_be_image(path):
            yield below + name
        else:
            passed_over[ending_of(path)] += 1


def _claims_to_be_image(path: str) -> bool:
    ending = ending_of(path)
    return ending in ENDINGS or (ending == NO_ENDING and os.path.isfile(path) and begins_as_image(path))


def _entries(folder: str) -> list[bytes]:
    """Return the names in a folder, with a slash after the names of folders, which puts whole paths in order."""

    def read() -> list[bytes]:
        with os.scandir(folder) as entries:
            return sorted(os.fsencode(entry.name) + b"/" * _is_folder(entry) for entry in entries)

    try:
        return retried(read, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); fix this or remove the folder") from error


def _hidden(name: bytes) -> bool:
    # macOS adds a folder __MACOSX with metadata to its archives.
    return name.startswith(b".") or name.rstrip(b"/") == b"__MACOSX"


def _is_folder(entry: os.DirEntry) -> bool:
    # DirEntry.is_dir() raises an error for a link to itself.
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
