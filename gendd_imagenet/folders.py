"""Which image files a data set consists of, and their labels: class folders, list files, folders without labels."""

import itertools
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor

from gendd import subsets
from gendd.data import image_files
from gendd.errors import UserError
from gendd.randomness import generator

RELEASE = (
    "ILSVRC2012 classification (CLS-LOC): 1000 class folders such as n01440764, "
    "1,281,167 images in train/, 50,000 in val/"
)
EVAL_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Listing:
    """N image files below a folder.

    Args:
        names: (N,) paths below `root`, as bytes: a million Python strings would be copied by every worker.
        labels: (N,) int64, -1 where one is not known; or None where none is.
        classes: name of each class, None where it is not known; or None.
    """

    root: Path
    names: np.ndarray
    labels: Tensor | None
    classes: tuple[str | None, ...] | None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.names[index])

    def select(self, indices: Tensor) -> "Listing":
        labels = None if self.labels is None else self.labels[indices]
        return Listing(self.root, self.names[indices.numpy()], labels, self.classes)

    def split(self, share: float) -> tuple["Listing", "Listing"]:
        """The rest and a random share, the same for every seed."""
        order = torch.randperm(len(self), generator=generator("cpu", "holdout"))
        held = round(share * len(self))
        return self.select(order[held:]), self.select(order[:held])

    def partly_labeled(self, fraction: float, labeled_only: bool) -> "Listing":
        """This fraction with labels, and the others without, or (labeled_only) not at all."""
        known = subsets.labeled(self.labels, fraction)
        if labeled_only:
            return self.select(known.nonzero()[:, 0])
        return replace(self, labels=self.labels.where(known, -1))

    def class_counts(self) -> Tensor:
        return torch.bincount(self.labels, minlength=len(self.classes))

    def missing(self) -> list[str]:
        """Entries without a file."""
        return [path for path in map(os.fsdecode, self.names) if not (self.root / path).exists()]


def class_names(folder: Path) -> list[str]:
    """Names of the class folders, in order; none if the folder is not there."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []


def list_class_folders(flag: str, root: Path, split: str) -> Listing:
    """The images of root/split/<class>/.

    Raises:
        UserError: no class folders, or one without images.
    """
    try:
        # Hidden files aside, all files count: what is no image is reported, not passed over.
        folder = torchvision.datasets.DatasetFolder(
            str(root / split), loader=None, is_valid_file=lambda path: not os.path.basename(path).startswith(".")
        )
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{flag} {root}: {reason}; it needs {split}/<class>/<image> files") from error
    paths, labels = zip(*folder.samples, strict=True)
    names = np.array([os.fsencode(os.path.relpath(path, root)) for path in paths])
    return Listing(root, names, torch.tensor(labels), tuple(folder.classes))


def list_file(flag: str, file: str, root: Path, num_classes: int) -> Listing:
    """The images that the lines "path label" of a file name, paths below `root`; at least so many classes.

    Raises:
        UserError: no such file, or a line that is none.
    """
    try:
        lines = Path(file).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f'{flag} {file}: cannot be read ({error}); it needs lines "path label", as in ImageNet_LT_train.txt'
        ) from error
    names, labels = [], []
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise UserError(f'{flag} {file}: line {number} is "{line}", not "path label"; mend or remove it')
        names.append(os.fsencode(name))
        labels.append(int(label))
    if not names:
        raise UserError(f"{flag} {file}: is empty; name a list of images")
    folders = {label: os.path.dirname(name) for name, label in zip(names, labels, strict=True)}
    # A folder for each class is named as the class.
    named = {label: os.fsdecode(os.path.basename(folder)) for label, folder in folders.items()}
    if len(set(named.values())) < len(named):
        named = {}
    classes = tuple(named.get(label) for label in range(max(num_classes, max(labels) + 1)))
    return Listing(root, np.array(names), torch.tensor(labels), classes)


def list_unlabeled(flag: str, root: Path) -> Listing:
    """All images below a folder, whatever their folders are called.

    Raises:
        UserError: there are none.
    """
    names = [os.fsencode(name) for name in image_files(root)]
    if not names:
        raise UserError(f"{flag} {root}: holds no image; name a folder that does")
    return Listing(root, np.array(names), None, None)


def refuse_other_classes(root: Path, train: Listing, evaluation: Listing) -> None:
    """Refuse training and evaluation classes that are not the same, or not in the same order."""
    if train.classes is None:
        return
    pairs = list(itertools.zip_longest(train.classes, evaluation.classes, fillvalue=""))
    if all(None in pair or pair[0] == pair[1] for pair in pairs):
        return
    differing = sorted((set(train.classes) ^ set(evaluation.classes)) - {None})
    where = f"only in one of them: {', '.join(differing[:5])}" if differing else "their order differs"
    raise UserError(
        f"--dataset {train.root}: {len(train.classes)} classes to train on, "
        f"{len(evaluation.classes)} to evaluate on in {root}; {where}; "
        "give both the same class folders"
    )
