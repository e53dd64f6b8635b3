"""List the image files of a data set and their labels: class folders, list files, folders without labels."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from gendd.core.errors import InvalidValue
from gendd.core.retry import retried
from gendd.data import image_files
from gendd.data.names import Names
from gendd.data.split import Split

RELEASE = (
    "ILSVRC2012 classification (CLS-LOC): 1000 class folders such as n01440764, "
    "1,281,167 images in train/, 50,000 in val/"
)
EVAL_SPLITS = ("val", "test")
# Greatest length of a label in a list: a longer number is a size or a time.
MOST_DIGITS = 6


@dataclass(frozen=True)
class Listing(Split):
    """N image files below a folder.

    Args:
        names: N paths below `root`.
        labels: (N,) int64, or (N, M) if an image may have several labels; -1 means unknown. None: no labels.
        classes: name of each class, None for a class without a known name.
        passed_over: number of skipped files and folders of each kind.
    """

    root: Path
    names: Names
    labels: Tensor | None
    classes: tuple[str | None, ...]
    passed_over: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.names[index])

    def name(self, index: int) -> str:
        return str(self.path(index))

    def content(self, index: int) -> bytes:
        """Read the bytes of an image.

        Raises:
            OSError: the file cannot be read.
        """
        path = self.path(index)
        return retried(path.read_bytes, path)

    def select(self, indices: Tensor) -> "Listing":
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, names=self.names.select(indices.numpy()), labels=labels)

    def with_labels(self, labels: Tensor) -> "Listing":
        return replace(self, labels=labels)

    def checksum(self) -> str:
        """Return a checksum of the names and sizes of the images."""
        return image_files.checksum(self.root, self.names)

    def contents(self) -> str:
        """Return a checksum of the contents of some of the images."""
        return image_files.contents(self.root, self.names)

    def missing(self) -> list[str]:
        """List the entries without a file."""
        paths = map(os.fsdecode, self.names)
        return [path for path in paths if not retried((self.root / path).exists, self.root / path)]


def list_class_folders(root: Path, split: str) -> Listing:
    """List the images of root/split/<class>/.

    Raises:
        InvalidValue: a class folder holds no images, or none exists.
    """
    files = image_files.list_class_folders(root, split)
    return Listing(root, files.names, torch.tensor(files.labels), tuple(files.classes), files.passed_over)


def list_file(file: str, root: Path, num_classes: int, once: bool = False) -> Listing:
    """List the images in a file of "path label" lines; paths are relative to `root`.

    Args:
        num_classes: least number of classes.
        once: refuse repeated images, as in an evaluation. Training may repeat some.

    Raises:
        InvalidValue: the file or a line is unreadable, or an image has two labels or is repeated despite `once`.
    """
    try:
        lines = retried(Path(file).read_text, file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValue(
            file, f'cannot be read ({error}); it needs lines "path label", as in ImageNet_LT_train.txt'
        ) from error
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or len(label) > MOST_DIGITS:
            raise InvalidValue(file, f'line {number} is "{line}", not "path label"; correct or remove it')
        names.append(name)
        labels.append(int(label))
    if not names:
        raise InvalidValue(file, "is empty; name a list of images")
    _refuse_doubles(file, names, labels, once)
    used = set(labels)
    # Labels that count from 1 exceed the known classes by one; without known classes, only class 0 is unused.
    if min(used) == 1 and (max(used) == num_classes or max(used) == len(used) > num_classes):
        raise InvalidValue(file, f"its labels run from 1 to {max(used)}, but labels count from 0; subtract 1 from each")
    folders = {label: os.path.dirname(name) for name, label in zip(names, labels, strict=True)}
    # If each class has one folder, the folder's name is the class's name.
    named = {label: os.path.basename(folder) for label, folder in folders.items()}
    if len(set(named.values())) < len(named):
        named = {}
    classes = tuple(named.get(label) for label in range(max(num_classes, max(labels) + 1)))
    return Listing(root, Names.of(map(os.fsencode, names)), torch.tensor(labels), classes)


def _refuse_doubles(file: str, names: Sequence[str], labels: Sequence[int], once: bool) -> None:
    label_of: dict[str, int] = {}
    for name, label in zip(map(os.path.normpath, names), labels, strict=True):
        first = label_of.setdefault(name, label)
        if first != label:
            raise InvalidValue(file, f"gives {name} the labels {first} and {label}; remove one of these lines")
    if once and len(label_of) < len(names):
        name, count = Counter(map(os.path.normpath, names)).most_common(1)[0]
        raise InvalidValue(
            file, f"lists {name} {count} times; an evaluation needs each image once: remove the other lines"
        )


def list_reassessed(file: str, root: Path, split: str) -> Listing:
    """List the images of root/split/<class>/ with labels from a JSON file in ReaL's format.

    The file holds a list of classes for each of ImageNet's validation images, by image number. Images with an empty
    list are left out.

    Raises:
        InvalidValue: the file is unreadable, has another format or does not match the images.
    """
    form = f"it needs a list of classes for each image of {split}/, such as ILSVRC2012_val_00000001.JPEG, by its number"
    try:
        reassessed = json.loads(retried(Path(file).read_text, file))
    except (OSError, ValueError) as error:
        raise InvalidValue(file, f"cannot be read ({error}); {form}") from error
    if not (isinstance(reassessed, list) and all(map(_are_classes, reassessed))):
        raise InvalidValue(file, f"does not hold lists of class numbers from 0; {form}")
    found = [torch.tensor(labels, dtype=torch.int64) for labels in reassessed]
    listing = list_class_folders(root, split)
    numbers = [re.search(rb"_(\d+)\.[^./]*$", name) for name in listing.names]
    rows = [int(number[1]) - 1 if number else -1 for number in numbers]
    if not all(0 <= row < len(found) for row in rows):
        raise InvalidValue(
            file, f"has {len(found)} entries, which do not cover the {len(rows)} images of {root}; {form}"
        )
    if len(set(rows)) < len(rows):
        number, images = Counter(rows).most_common(1)[0]
        raise InvalidValue(file, f"{images} images of {root} have the number {number + 1}; {form}")
    labels = torch.nn.utils.rnn.pad_sequence([found[row] for row in rows], batch_first=True, padding_value=-1)
    if labels.numel() and labels.max() >= len(listing.classes):
        raise InvalidValue(
            file, f"has class {labels.max()}, but the {len(listing.classes)} classes count from 0; {form}"
        )
    return listing.with_labels(labels).select((labels >= 0).any(1))


def _are_classes(labels: object) -> bool:
    return isinstance(labels, list) and all(type(label) is int and label >= 0 for label in labels)


def list_unlabeled(root: Path) -> Listing:
    """List all images below a folder.

    Raises:
        InvalidValue: the folder holds no images.
    """
    files = image_files.list_images(root)
    return Listing(root, files.names, None, (), files.passed_over)


def refuse_absent(file: str, listing: Listing) -> None:
    """Refuse a list that names missing files."""
    if absent := listing.missing():
        raise InvalidValue(
            file,
            f"{len(absent)} of {len(listing)} entries are missing below {listing.root}, such as "
            f"{absent[0]}; the list is for {RELEASE}",
        )
