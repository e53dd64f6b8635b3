"""Data sets of small images, by name or folder: where they lie, what they hold, and their pixels.

Shapes: N images of a set, S pixels a side.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.datasets.utils import check_integrity

from gendd.data import DataSummary, class_difference
from gendd.errors import UserError, unknown_name
from gendd.evaluation import class_groups
from gendd.images import SHOWN, BrokenImage, as_rgb, opened
from gendd.listing import ImageFiles, class_names, describe, list_class_folders, list_images
from gendd.retry import retried
from gendd.split import Split
from gendd_cifar.config import CifarTrainConfig

CIFAR = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
NAMES = ("digits", *CIFAR)
CIFAR_SIZES = {"train": 50_000, "test": 10_000}
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Images(Split):
    """A set of images (N, 3, S, S) uint8 with their labels (N,) int64, -1 where they are not known."""

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
    """
    Args:
        class_names: None where they are not known.
    """

    train: Images
    test: Images
    class_names: tuple[str | None, ...]
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class BrokenFiles(UserError):
    """Files that are no readable images, with a line for each."""

    def __init__(self, lines: Sequence[str]):
        others = f", and {len(lines) - 1} others, which --check-data names" if len(lines) > 1 else ""
        super().__init__(f"{lines[0]}; remove or replace it{others}")
        self.lines = lines


def read_source(dataset: str, data_root: str, image_size: int | None, unlabeled_dir: str | None = None) -> Source:
    """Read a data set by name or folder.

    Args:
        image_size: None reads labels alone: no image is downloaded or decoded.
        unlabeled_dir: folder of the images to train on, in place of the data set's own, which are not looked at.

    Raises:
        UserError: no such data set, files missing (with where to get them), a non-image, an empty split.
    """
    splits = SPLITS[1:] if unlabeled_dir else SPLITS
    images: dict[str, Images] = {}
    files: dict[str, ImageFiles] = {}
    if dataset == "digits":
        images, classes = _digits(image_size), tuple("0123456789")
    elif dataset in NAMES:
        images, classes = _cifar(dataset, Path(data_root), image_size, splits)
    elif Path(dataset).is_dir():
        files = _folder(Path(dataset), splits)
        classes = tuple(files["test"].classes)
    else:
        raise _no_data_set(dataset)
    if unlabeled_dir:
        files["train"] = list_images("--unlabeled-dir", Path(unlabeled_dir))
    images |= _decode(files, image_size)
    passed_over = sum((listed.passed_over for listed in files.values()), Counter())
    return Source(images["train"], images["test"], classes, passed_over)


def _no_data_set(name: str) -> UserError:
    if "/" in name or Path(name).is_dir():
        what = "holds no class folders" if Path(name).is_dir() else "no such folder"
        return UserError(f"--dataset {name}: {what}; name one with train/<class>/ and test/<class>/")
    return unknown_name("--dataset", name, NAMES)


def _digits(image_size: int | None) -> dict[str, Images]:
    """The 1,797 handwritten digits of scikit-learn (8x8), upscaled; a fixed third is the test set."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, size=image_size or 8, mode="bilinear", antialias=False)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=1 / 3, random_state=0, stratify=digits.target)
    data = Images(images, labels)
    return {"train": data.select(torch.from_numpy(train)), "test": data.select(torch.from_numpy(test))}


def _cifar(
    name: str, root: Path, image_size: int | None, splits: Sequence[str]
) -> tuple[dict[str, Images], tuple[str | None, ...]]:
    if image_size is None:
        classes = int(name.removeprefix("cifar"))
        images = {split: _without_pixels(torch.arange(CIFAR_SIZES[split]) % classes) for split in splits}
        return images, (None,) * classes

    def read(split: str) -> tuple[Images, list[str]]:
        download = partial(CIFAR[name], root, train=split == "train", download=True)
        dataset = retried(download, f"--dataset {name}")
        pixels = [_square(Image.fromarray(image), image_size) for image in dataset.data]
        return Images(_stack(pixels), torch.tensor(dataset.targets)), dataset.classes

    try:
        sets = {split: read(split) for split in splits}
        return {split: images for split, (images, _) in sets.items()}, tuple(sets["test"][1])
    except (RuntimeError, OSError) as error:
        lacking = _lacking(CIFAR[name], root)
        if lacking:
            raise UserError(f"--dataset {name}: {lacking} (downloading it failed: {error})") from error
        raise UserError(
            f"--dataset {name}: cannot be unpacked or read ({error}); delete {root / CIFAR[name].base_folder} and make "
            "room there"
        ) from error


def _lacking(dataset: type, root: Path) -> str | None:
    """What is damaged or not there, with the remedy; nothing if the set, unpacked or as its archive, is whole."""
    unpacked, archive = root / dataset.base_folder, (root / dataset.filename, dataset.tgz_md5)
    listed = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    unfit = [unpacked / name for name, md5 in listed if not check_integrity(unpacked / name, md5)]
    if not unfit or check_integrity(*archive):
        return None
    damaged = [path for path in (archive[0], *unfit) if path.exists()]
    remedy = _how_to_get(dataset, root)
    return f"{damaged[0]} is damaged: delete it, {remedy}" if damaged else f"not there; {remedy}"


def _how_to_get(dataset: type, root: Path) -> str:
    return f"fetch {dataset.url} (md5 {dataset.tgz_md5}) and put it into --data-root {root}"


def _folder(root: Path, splits: Sequence[str]) -> dict[str, ImageFiles]:
    files = {split: list_class_folders("--dataset", root, split) for split in splits}
    train, test = files[splits[0]], files["test"]
    if difference := class_difference(train.classes, test.classes):
        raise UserError(
            f"--dataset {root}: train/ has {len(train.classes)} classes, test/ {len(test.classes)}; {difference}"
        )
    return files


def _decode(files: Mapping[str, ImageFiles], image_size: int | None) -> dict[str, Images]:
    images, broken = {}, []
    with ThreadPoolExecutor() as pool:
        for split, listed in files.items():
            flag, labels = "--dataset", listed.labels
            if labels is None:
                flag, labels = "--unlabeled-dir", [-1] * len(listed.names)
            if image_size is None:
                images[split] = _without_pixels(torch.tensor(labels))
                continue
            paths = [listed.root / name for name in listed.names]
            read = list(pool.map(_read, paths, repeat(image_size)))
            broken += [f"{flag}: {path}: {why}" for path, why in zip(paths, read, strict=True) if isinstance(why, str)]
            if not broken:
                images[split] = Images(_stack(read), torch.tensor(labels))
    if broken:
        raise BrokenFiles(broken)
    return images


def _without_pixels(labels: Tensor) -> Images:
    return Images(torch.empty(len(labels), 3, 0, 0, dtype=torch.uint8), labels)


def _read(path: Path, image_size: int) -> np.ndarray | str:
    """Pixels of an image file, or the reason why there are none."""
    try:
        with opened(retried(path.read_bytes, path)) as image:
            return _square(image, image_size)
    except (BrokenImage, OSError) as error:
        return str(error)


def _square(image: Image.Image, size: int) -> np.ndarray:
    """RGB pixels (size, size, 3): the center square, resized where it has another size."""
    image = as_rgb(image)
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(image)


def _stack(pixels: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def summarize(config: CifarTrainConfig) -> DataSummary:
    """Number of classes, and what is missing, without reading the images."""
    name, missing = config.dataset, []
    if name == "digits":
        num_classes = 10
    elif name in NAMES:
        num_classes = int(name.removeprefix("cifar"))
        if lacking := _lacking(CIFAR[name], Path(config.data_root)):
            missing.append(f"--dataset {name}: {lacking}")
    else:
        num_classes = len(class_names(Path(name, "test" if config.unlabeled_dir else "train")))
        if not num_classes:
            missing.append(str(_no_data_set(name)))
    if config.unlabeled_dir and not Path(config.unlabeled_dir).is_dir():
        missing.append(f"--unlabeled-dir {config.unlabeled_dir}: no such folder; name a folder of images")
    return DataSummary(num_classes or None, tuple(missing), details=_details(config))


def _details(config: CifarTrainConfig) -> str:
    words = []
    if config.unlabeled_dir:
        words.append(f"trained on the images of {config.unlabeled_dir}")
    if config.imbalance < 1:
        words.append(f"long-tailed, the last class {config.imbalance:g} times the first")
    return ", ".join([*words, f"crops with padding {config.crop_padding}", f"flips {config.hflip:g}"])


def check_data(config: CifarTrainConfig) -> None:
    """Read all images and say what there is.

    Raises:
        UserError: something is missing or broken.
    """
    try:
        source = read_source(config.dataset, config.data_root, config.image_size, config.unlabeled_dir)
    except BrokenFiles as broken:
        for line in broken.lines[:SHOWN]:
            print(f"  {line}")
        more = f" (the first {SHOWN} are listed)" if len(broken.lines) > SHOWN else ""
        raise UserError(
            f"--dataset {config.dataset}: {len(broken.lines)} images are broken{more}; remove or replace them"
        ) from broken
    print(f"{config.dataset}: {source.num_classes} classes, all images read")
    if source.passed_over:
        print(f"  passed over: {describe(source.passed_over)}")
    if config.unlabeled_dir:
        print(f"  train  {len(source.train)} images of {config.unlabeled_dir}, without labels")
    else:
        train = source.train.long_tailed(config.imbalance)
        counts = train.class_counts(source.num_classes)
        print(f"  train  {_counted(train, counts)}")
        if groups := class_groups(counts):
            sizes = (f"{members.sum()} of {name}" for name, members in groups.items())
            print(f"         classes by their number of images: {', '.join(sizes)}")
        if config.label_fraction < 1:
            labeled = train.partly_labeled(config.label_fraction, labeled_only=True)
            print(f"  labels {_counted(labeled, labeled.class_counts(source.num_classes))}")
    print(f"  test   {_counted(source.test, source.test.class_counts(source.num_classes))}")


def _counted(images: Images, class_sizes: Tensor) -> str:
    return f"{len(images)} images, {class_sizes.min()} to {class_sizes.max()} a class"
