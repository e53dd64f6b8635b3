"""Images of Hugging Face datasets, by timm's reader: hfds/OWNER/NAME, or hfds/FOLDER of parquet files or images."""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import create_reader
from torch import Tensor

from gendd.errors import Refusal
from gendd.split import Split
from gendd_imagenet.folders import Listing

PREFIX = "hfds/"
TRAIN, EVALUATION = ("train",), ("validation", "val", "test")
IMAGE, LABEL = "image", "label"


def is_hub(name: str) -> bool:
    """Whether a data set's name means one of the Hugging Face hub, or of its formats."""
    return name.startswith(PREFIX)


@dataclass(frozen=True)
class HubListing(Split):
    """N images of one split, in the place of a `Listing`.

    Args:
        root: name of the data set.
        split: that the images are of.
        table: what `datasets` loaded, its images not decoded.
        rows: (N,) their numbers in it.
        labels: (N,) int64; or None where there are none.
        classes: name of each class, or None.
    """

    root: Path
    split: str
    table: Any
    rows: np.ndarray
    labels: Tensor | None
    classes: tuple[str, ...] | None
    passed_over: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> np.ndarray:
        return self.rows.astype(bytes)

    def name(self, index: int) -> str:
        return f"{self.root}, {self.split}, row {self.rows[index]}"

    def content(self, index: int) -> bytes:
        """
        Raises:
            OSError: the image is a file of its own that cannot be read.
        """
        image = self.table[int(self.rows[index])][IMAGE]
        return image["bytes"] or Path(image["path"]).read_bytes()

    def select(self, indices: Tensor) -> "HubListing":
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, rows=self.rows[indices.numpy()], labels=labels)

    def with_labels(self, labels: Tensor) -> "HubListing":
        return replace(self, labels=labels)

    def missing(self) -> list[str]:
        return []


AnyListing = Listing | HubListing


@cache
def list_hub(name: str, splits: Sequence[str]) -> HubListing:
    """The images of the first of these splits that there is; downloaded if they are not there yet.

    Raises:
        Refusal: the package `datasets` is not installed, no such data set or split, or one without images.
    """
    if not importlib.util.find_spec("datasets"):
        raise Refusal(f"{name}: needs the package datasets, which is not installed; pip install datasets")
    source, unknown = name.removeprefix(PREFIX), None
    for split in splits:
        try:
            reader = create_reader(name, split=split)
        except ValueError as error:
            # Another split's name, or one without images: what the library says tells which.
            unknown = error
            continue
        except Exception as error:
            raise Refusal(f"{name}: cannot be loaded ({_line(error)}); check the name and the network") from error
        break
    else:
        raise Refusal(f"{name}: no images in {' or '.join(splits)} ({_line(unknown)}); it needs a column {IMAGE}")
    table, classes = reader.dataset, tuple(reader.class_to_idx)
    labels = torch.tensor(table[LABEL][:]) if classes else None
    if not len(table):
        raise Refusal(f"{name}: its split {split} is empty; name a data set with images")
    return HubListing(Path(source), split, table, np.arange(len(table)), labels, classes or None)


def _line(error: Exception | None) -> str:
    return str(error).strip().split("\n")[0]
