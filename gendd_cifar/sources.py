"""Data sets of small images, by name or folder: classes, labels, pixels and missing files.

Shapes: N images in the set, S pixels per side.
"""

import os
import pickle
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.datasets.utils import check_integrity, download_and_extract_archive

from gendd.config import Config
from gendd.core.errors import InvalidSetting, UserError, naming, no_such, unknown_name
from gendd.core.retry import retried
from gendd.data.batch import DataSummary
from gendd.data.decode import BrokenImage, as_rgb, opened
from gendd.data.image_files import ImageFiles, checksum, class_names, contents, list_class_folders, list_images
from gendd.data.split import Split
from gendd_cifar.config import SmallImages

CIFAR = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
NAMES = ("digits", *CIFAR)
DIGITS = Path(__file__).with_name("digits.npz")
# The parts of an array in a pickled file.
ARRAY_PARTS = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
CIFAR_SIZES = {"train": 50_000, "test": 10_000}
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Images(Split):
    """Images (N, 3, S, S) uint8 with labels (N,) int64; an unknown label is -1."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "Images":
        return Images(self.images[indices], self.labels[indices])

    def with_labels(self, labels: Tensor) -> "Images":
        return Images(self.images, labels)


@dataclass(frozen=True)
class Source:
    """Images of one split, with the names of their classes.

    Args:
        class_names: None for each class without a known name; empty for images without labels.
        passed_over: number of skipped files of each kind.
        files: the files of the images; None for a built-in or downloaded data set.
    """

    images: Images
    class_names: tuple[str | None, ...]
    passed_over: Counter[str] = field(default_factory=Counter)
    files: ImageFiles | None = None

    def checksum(self) -> str | None:
        """Return a checksum of the names and sizes of the files; None without files."""
        return checksum(self.files.root, self.files.names) if self.files else None

    def contents(self) -> str | None:
        """Return a checksum of the contents of some of the files; None without files."""
        return contents(self.files.root, self.files.names) if self.files else None


class BrokenFiles(UserError):
    """Image files that cannot be read, with one line per file."""

    def __init__(self, lines: Sequence[str]):
        others = f", and {len(lines) - 1} more; list them with `check_data`" if len(lines) > 1 else ""
        super().__init__(f"{lines[0]}; remove or replace it{others}")
        self.lines = lines


def read_source(dataset: str, data_root: str, split: str, image_size: int | None) -> Source:
    """Read the "train" or "test" images of a data set, by its name or folder.

    Args:
        image_size: None reads only the labels, without downloading or decoding an image.

    Raises:
        UserError: the data set does not exist, files are missing (with where to get them) or not images.
    """
    if dataset == "digits":
        return Source(_digits(split, image_size), tuple("0123456789"))
    if dataset in NAMES:
        return _cifar(dataset, Path(data_root), split, image_size)
    if not Path(dataset).is_dir():
        raise _no_data_set(dataset)
    with naming("dataset"):
        files = list_class_folders(Path(dataset), split)
    return Source(_decode("dataset", files, image_size), tuple(files.classes), files.passed_over, files)


def read_unlabeled(folder: str, image_size: int | None) -> Source:
    """Read the images of --unlabeled-dir; arguments and errors as of `read_source`."""
    with naming("unlabeled_dir"):
        files = list_images(Path(folder))
    return Source(_decode("unlabeled_dir", files, image_size), (), files.passed_over, files)


def _no_data_set(name: str) -> InvalidSetting:
    if "/" in name or Path(name).is_dir():
        what = "no class folders found" if Path(name).is_dir() else no_such(name, "folder")
        return InvalidSetting("dataset", name, f"{what}; name a folder with train/<class>/ and test/<class>/")
    reason = f"{unknown_name(name, NAMES).reason}; or name a folder with train/<class>/ and test/<class>/"
    return InvalidSetting("dataset", name, reason)


def _digits(split: str, image_size: int | None) -> Images:
    """Load scikit-learn's 1,797 handwritten digits (8x8), upscaled; a fixed third is the test set.

    The file holds the pixels from 0 to 16 (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0).
    """
    with np.load(DIGITS, allow_pickle=False) as digits:
        pixels, labels = digits[f"{split}_images"], torch.from_numpy(digits[f"{split}_labels"]).long()
    images = torch.from_numpy(pixels / 16 * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    return Images(
        torch.nn.functional.interpolate(images, size=image_size or 8, mode="bilinear", antialias=False), labels
    )


def _cifar(name: str, root: Path, split: str, image_size: int | None) -> Source:
    if image_size is None:
        classes = int(name.removeprefix("cifar"))
        return Source(_without_pixels(torch.arange(CIFAR_SIZES[split]) % classes), (None,) * classes)
    dataset = CIFAR[name]
    try:
        retried(partial(_fetch, dataset, root), f"data set {name}")
        files = dataset.train_list if split == "train" else dataset.test_list
        entries = [_read_entry(root / dataset.base_folder / file) for file, _ in files]
        images = np.concatenate([entry["data"] for entry in entries]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = [label for entry in entries for label in entry.get("labels") or entry["fine_labels"]]
        classes = _read_entry(root / dataset.base_folder / dataset.meta["filename"])[dataset.meta["key"]]
        pixels = [_square(Image.fromarray(image), image_size) for image in images]
        return Source(Images(_stack(pixels), torch.tensor(labels)), tuple(classes))
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        lacking = _lacking(CIFAR[name], root)
        if lacking:
            raise InvalidSetting("dataset", name, f"{lacking} (downloading it failed: {error})") from error
        raise InvalidSetting(
            "dataset",
            name,
            f"cannot be unpacked or read ({error}); delete {root / CIFAR[name].base_folder} and make room there",
        ) from error


def _fetch(dataset: Any, root: Path) -> None:
    """Download and unpack a data set of torchvision, if it is not there."""
    if _unfit(dataset, root):
        download_and_extract_archive(dataset.url, root, filename=dataset.filename, md5=dataset.tgz_md5)
    if unfit := _unfit(dataset, root):
        raise RuntimeError(f"{unfit[0]} does not have the published checksum")


class _ArraysOnly(pickle.Unpickler):
    """The reader of CIFAR's files: arrays in plain values. torchvision's would run the code of a file."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("._core.", ".core."), name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)


def _read_entry(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()


def _unfit(dataset: Any, root: Path) -> list[Path]:
    """List the files of an unpacked data set that are missing or damaged."""
    listed = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    paths = {root / dataset.base_folder / name: md5 for name, md5 in listed}
    return [path for path, md5 in paths.items() if not check_integrity(path, md5)]


def _lacking(dataset: Any, root: Path) -> str | None:
    """Say which file is missing or damaged, and the remedy; return None if the set or its archive is complete."""
    unfit, archive = _unfit(dataset, root), (root / dataset.filename, dataset.tgz_md5)
    if not unfit or check_integrity(*archive):
        return None
    damaged = [path for path in (archive[0], *unfit) if path.exists()]
    remedy = _how_to_get(dataset, root)
    return f"{damaged[0]} is damaged: delete it, {remedy}" if damaged else f"not there; {remedy}"


def _how_to_get(dataset: Any, root: Path) -> str:
    return f"fetch {dataset.url} (md5 {dataset.tgz_md5}) and put it into `data_root` {root}"


def _decode(field: str, files: ImageFiles, image_size: int | None) -> Images:
    labels = torch.full((len(files.names),), -1) if files.labels is None else torch.tensor(files.labels)
    if image_size is None:
        return _without_pixels(labels)
    paths = [files.root / os.fsdecode(name) for name in files.names]
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(_read, paths, repeat(image_size)))
    broken = [f"`{field}`: {path}: {why}" for path, why in zip(paths, read, strict=True) if isinstance(why, str)]
    if broken:
        raise BrokenFiles(broken)
    return Images(_stack([image for image in read if not isinstance(image, str)]), labels)


def _without_pixels(labels: Tensor) -> Images:
    return Images(torch.empty(len(labels), 3, 0, 0, dtype=torch.uint8), labels)


def _read(path: Path, image_size: int) -> np.ndarray | str:
    """Return the pixels of an image file, or the reason why it cannot be read."""
    try:
        with opened(retried(path.read_bytes, path)) as image:
            return _square(image, image_size)
    except (BrokenImage, OSError) as error:
        return str(error)


def _square(image: Image.Image, size: int) -> np.ndarray:
    """Return the image's center square as RGB pixels (size, size, 3), resized if needed."""
    image = as_rgb(image)
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(image)


def _stack(pixels: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def summarize(config: Config[SmallImages]) -> DataSummary:
    """Count the classes and list missing files without reading the images."""
    name, missing = config.data.dataset, []
    if name == "digits":
        num_classes = 10
    elif name in NAMES:
        num_classes = int(name.removeprefix("cifar"))
        if lacking := _lacking(CIFAR[name], Path(config.data.data_root)):
            missing.append(str(InvalidSetting("dataset", name, lacking)))
    else:
        # An evaluation does not need training images.
        num_classes = max(len(class_names(Path(name, split))) for split in SPLITS)
        if not num_classes:
            missing.append(str(_no_data_set(name)))
    if config.data.unlabeled_dir and not Path(config.data.unlabeled_dir).is_dir():
        reason = f"{no_such(config.data.unlabeled_dir, 'folder')}; name a folder of images"
        missing.append(str(InvalidSetting("unlabeled_dir", config.data.unlabeled_dir, reason)))
    fetched = name in NAMES and not config.data.unlabeled_dir
    return DataSummary(num_classes or None, tuple(missing), fetched, details=_details(config))


def _details(config: Config[SmallImages]) -> str:
    words = []
    if config.data.unlabeled_dir:
        words.append(f"trained on the images of {config.data.unlabeled_dir}")
    if config.data.imbalance < 1:
        words.append(f"long-tailed, the last class {config.data.imbalance:g} times the first")
    return ", ".join([*words, f"crops with padding {config.data.crop_padding}", f"flips {config.data.hflip:g}"])


def class_sizes(config: Config[SmallImages]) -> Tensor | None:
    """Return the number of training images per class (C,), or None without a training set."""
    if config.data.dataset not in NAMES and not class_names(Path(config.data.dataset, "train")):
        return None
    source = read_source(config.data.dataset, config.data.data_root, "train", image_size=None)
    return source.images.long_tailed(config.data.imbalance).class_counts(len(source.class_names))
