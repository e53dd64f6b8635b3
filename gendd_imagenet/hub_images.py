"""Images of Hugging Face datasets: hfds/OWNER/NAME[:CONFIGURATION], or hfds/FOLDER of parquet files or images."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendd.core.errors import InvalidValue
from gendd.core.extras import imported_extra
from gendd.data import image_files
from gendd.data.split import Split
from gendd_imagenet.folders import Listing

PREFIX = "hfds/"
TRAIN, EVALUATION = ("train",), ("validation", "val", "test")
OTHER_EVALUATION = "`holdout` 0.1 evaluates on a part of train, `eval_dataset` on another data set"
# Preferred columns if several qualify.
IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")


def is_hub(name: str) -> bool:
    """Return whether a data set's name means one that the package `datasets` loads."""
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class HubListing(Split):
    """N images of one split of a Hugging Face data set; replaces a `Listing`.

    Args:
        root: name of the data set and its configuration.
        split: name of the split.
        table: table from `datasets` with one column, `image`, not decoded.
        columns: names of all columns in the data set.
        rows: (N,) row numbers in the table.
        labels: (N,) int64, -1 for an unknown label. None if no column is clearly the label.
        classes: name of each class.
        passed_over: number of skipped rows, by reason.
        unlearned: names of the split's classes that are not in the training split.
    """

    root: Path
    split: str
    table: Any
    columns: tuple[str, ...]
    rows: np.ndarray
    labels: Tensor | None
    classes: tuple[str, ...]
    passed_over: Counter[str] = field(default_factory=Counter)
    unlearned: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> np.ndarray:
        return self.rows.astype(bytes)

    def name(self, index: int) -> str:
        return f"{self.root}, {self.split}, row {self.rows[index]}"

    def content(self, index: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            OSError: the image is a separate file and cannot be read.
        """
        image = self.table[int(self.rows[index])][IMAGES[0]]
        return Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]

    def select(self, indices: Tensor) -> "HubListing":
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, rows=self.rows[indices.numpy()], labels=labels)

    def with_labels(self, labels: Tensor) -> "HubListing":
        return replace(self, labels=labels)

    def checksum(self) -> None:
        """Return None: the package `datasets` checks its files."""

    def contents(self) -> str:
        """Return a checksum of the contents of some of the images: another revision may have as many."""

        def content(index: int) -> bytes:
            with contextlib.suppress(FileNotFoundError):
                return hashlib.sha256(self.content(index)).digest()
            return b""

        return hashlib.sha256(b"".join(map(content, image_files.sampled(len(self))))).hexdigest()

    def missing(self) -> list[str]:
        return []


AnyListing = Listing | HubListing


@cache
def list_hub(name: str, splits: Sequence[str]) -> HubListing:
    """List the images of the first of these splits that exists, after downloading the data set if needed.

    Raises:
        InvalidValue: the package `datasets` is not installed, the data set, configuration or split does not exist, or
            it holds no images.
    """
    tables = _load(name)
    split = next((split for split in splits if split in tables), None)
    if split is None:
        remedy = OTHER_EVALUATION if splits == EVALUATION else "name a data set that has it"
        raise InvalidValue(name, f"has the splits {', '.join(tables)}; it needs {' or '.join(splits)}: {remedy}")
    columns = tuple(tables[split].features)
    images = _images(name, tables[split])
    rows = np.flatnonzero(_has_image(images))
    if not len(rows):
        raise InvalidValue(name, f"its split {split} holds no images; name a data set with images")
    labels, classes = _labels(tables, split)
    unlearned: tuple[str, ...] = ()
    if labels is not None and classes and TRAIN[0] in tables and split not in TRAIN:
        learned, _ = _labels(tables, TRAIN[0])
        if learned is not None:
            absent = sorted(set(labels.tolist()) - set(learned.tolist()) - {-1})
            unlearned = tuple(classes[number] for number in absent)
    passed_over = Counter({"without an image": len(images) - len(rows)} if len(rows) < len(images) else {})
    root, labels = Path(name.removeprefix(PREFIX)), None if labels is None else labels[rows]
    return HubListing(root, split, images, columns, rows, labels, classes or (), passed_over, unlearned)


@cache
def _load(name: str) -> Mapping[str, Any]:
    """Load the tables of all splits of a data set."""
    datasets = imported_extra("datasets", "datasets", name)
    source, _, configuration = name.removeprefix(PREFIX).partition(":")
    try:
        return datasets.load_dataset(source, configuration or None)
    except Exception as error:
        known: list[str] = []
        # Loading fails for other reasons too, and this call may fail for the same one.
        with contextlib.suppress(Exception):
            known = datasets.get_dataset_config_names(source)
        if known and configuration not in known and (configuration or len(known) > 1):
            raise InvalidValue(
                name, f"has the configurations {', '.join(known)}; name one, such as {PREFIX}{source}:{known[0]}"
            ) from error
        raise InvalidValue(name, f"cannot be loaded ({_line(error)}); check the name and the network") from error


def _images(name: str, table: Any) -> Any:
    """Return a table with only the image column, not decoded and named `image`."""
    from datasets import Image

    named = [column for column in IMAGES if column in table.features]
    found = [column for column, kind in table.features.items() if isinstance(kind, Image)] or named
    column = found[0] if len(found) == 1 else next((column for column in IMAGES if column in found), None)
    reason = "several could hold the images" if found else "none holds images"
    if column is not None:
        try:
            images = table.select_columns([column]).cast_column(column, Image(decode=False))
            return images if column == IMAGES[0] else images.rename_column(column, IMAGES[0])
        # The libraries raise many kinds of exceptions.
        except Exception as error:
            reason = f"{column} does not hold images ({_line(error)})"
    raise InvalidValue(
        name,
        f"has the columns {', '.join(table.features)}; {reason}; name the images' column {IMAGES[0]}, "
        "for instance with rename_column of datasets",
    )


def _has_image(images: Any) -> np.ndarray:
    """Return whether each row holds an image, (N,) bool, without decoding any."""
    # A row without an image has neither bytes nor a path.
    return np.any([part.is_valid().to_numpy() for part in images.data.column(IMAGES[0]).flatten()], axis=0)


def _labels(tables: Mapping[str, Any], split: str) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Return the labels (N,) of a split and the class names: from the data set, or else the values in its splits."""
    from datasets import ClassLabel, Value

    features = tables[split].features
    found = [column for column, kind in features.items() if isinstance(kind, ClassLabel)]
    column = next((column for column in LABELS if column in features), found[0] if len(found) == 1 else None)
    kind = features.get(column)
    if isinstance(kind, ClassLabel):
        names = tuple(kind.names)
        numbers: Mapping[Any, int] = {number: number for number in range(len(names))}
    elif isinstance(kind, Value) and kind.dtype.startswith(("int", "uint", "string", "large_string", "bool")):
        unique = (table.unique(column) for table in tables.values() if table.features.get(column) == kind)
        # As in other data sets, -1 means unlabeled.
        values = sorted({value for some in unique for value in some} - {None, -1})
        names, numbers = tuple(map(str, values)), {value: number for number, value in enumerate(values)}
    else:
        return None, None
    return torch.tensor([numbers.get(value, -1) for value in tables[split][column][:]]), names


def _line(error: Exception) -> str:
    return str(error).replace("`", "'").strip().split("\n")[0]
