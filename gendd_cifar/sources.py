"""Data sets of small images, by name or folder: where they lie, what they hold, and their pixels.

Shapes: N images of a set, S pixels a side.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from gendd import subsets
from gendd.data import DataSummary, image_files
from gendd.errors import UserError, unknown_name
from gendd.evaluation import class_groups
from gendd_cifar.config import CifarTrainConfig

CIFAR = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
NAMES = ("digits", *CIFAR)
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Images:
    """A set of images (N, 3, S, S) uint8 with their labels (N,) int64, -1 where they are not known."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "Images":
        return Images(self.images[indices], self.labels[indices])

    def class_sizes(self, num_classes: int) -> Tensor:
        """Number of images (C,) of each class; those without a label belong to none."""
        return torch.bincount(self.labels[self.labels >= 0], minlength=num_classes)

    def long_tailed(self, imbalance: float) -> "Images":
        return self.select(subsets.long_tailed(self.labels, imbalance)) if imbalance < 1 else self

    def partly_labeled(self, fraction: float, labeled_only: bool) -> "Images":
        """This fraction with labels, and the others without, or (labeled_only) not at all."""
        known = subsets.labeled(self.labels, fraction)
        return self.select(known) if labeled_only else Images(self.images, self.labels.where(known, -1))


@dataclass(frozen=True)
class Source:
    train: Images
    test: Images
    num_classes: int


def read_source(dataset: str, data_root: str, image_size: int, unlabeled_dir: str | None = None) -> Source:
    """Read a data set by name or folder.

    Args:
        unlabeled_dir: folder of the images to train on, in place of the data set's own, which are not looked at.

    Raises:
        UserError: no such data set, files missing (with where to get them), a non-image, an empty split.
    """
    splits = SPLITS[1:] if unlabeled_dir else SPLITS
    if dataset == "digits":
        images, num_classes = _digits(image_size), 10
    elif dataset in NAMES:
        images, num_classes = _cifar(dataset, Path(data_root), image_size, splits)
    elif Path(dataset).is_dir():
        images, num_classes = _folder(Path(dataset), image_size, splits)
    else:
        raise _no_data_set(dataset)
    if unlabeled_dir:
        images["train"] = _unlabeled(Path(unlabeled_dir), image_size)
    return Source(images["train"], images["test"], num_classes)


def _no_data_set(name: str) -> UserError:
    if "/" in name:
        return UserError(f"--dataset {name}: no such folder; name one with train/<class>/ and test/<class>/")
    return unknown_name("--dataset", name, NAMES)


def _unlabeled(root: Path, image_size: int) -> Images:
    files = [str(root / name) for name in image_files(root)]
    if not files:
        raise _no_images(root)
    return _decode("--unlabeled-dir", [(file, -1) for file in files], image_size)


def _no_images(root: Path) -> UserError:
    reason = "holds no image" if root.is_dir() else "no such folder"
    return UserError(f"--unlabeled-dir {root}: {reason}; name a folder of images")


def _digits(image_size: int) -> dict[str, Images]:
    """The 1,797 handwritten digits of scikit-learn (8x8), upscaled; a fixed third is the test set."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16 * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, size=image_size, mode="bilinear", antialias=False)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=1 / 3, random_state=0, stratify=digits.target)
    data = Images(images, labels)
    return {"train": data.select(torch.from_numpy(train)), "test": data.select(torch.from_numpy(test))}


def _cifar(name: str, root: Path, image_size: int, splits: Sequence[str]) -> tuple[dict[str, Images], int]:
    def read(split: str) -> Images:
        dataset = CIFAR[name](root, train=split == "train", download=True)
        pixels = [_square(Image.fromarray(image), image_size) for image in dataset.data]
        return Images(_stack(pixels), torch.tensor(dataset.targets))

    try:
        return {split: read(split) for split in splits}, int(name.removeprefix("cifar"))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"--dataset {name}: could not be downloaded ({error}); {_how_to_get(CIFAR[name], root)}"
        ) from error


def _how_to_get(dataset: type, root: Path) -> str:
    return f"fetch {dataset.url} (md5 {dataset.tgz_md5}) and put it into --data-root {root}"


def _folder(root: Path, image_size: int, splits: Sequence[str]) -> tuple[dict[str, Images], int]:
    listings = {}
    for split in splits:
        try:
            # Hidden files aside, all files count: what is no image is reported, not passed over.
            listing = torchvision.datasets.ImageFolder(
                root / split, is_valid_file=lambda path: not Path(path).name.startswith(".")
            )
        except FileNotFoundError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--dataset {root}: {reason}; it needs {split}/<class>/<image> files") from error
        listings[split] = listing
    train, test = listings[splits[0]], listings["test"]
    if train.classes != test.classes:
        differing = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(
            f"--dataset {root}: train/ has {len(train.classes)} classes, test/ {len(test.classes)}; only in one of "
            f"them: {', '.join(differing[:5])}"
        )
    images = {split: _decode("--dataset", listings[split].samples, image_size) for split in splits}
    return images, len(test.classes)


def _decode(flag: str, samples: list[tuple[str, int]], image_size: int) -> Images:
    def decode(path: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                return _square(image, image_size)
        # Pillow's words for a damaged file: OSError, a SyntaxError in a PNG, an absurd size in a header.
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"{flag}: {path} is no readable image; remove or replace it") from error

    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(decode, [path for path, _ in samples]))
    return Images(_stack(pixels), torch.tensor([label for _, label in samples]))


def _square(image: Image.Image, size: int) -> np.ndarray:
    """RGB pixels (size, size, 3): the centre square, resized where it has another size."""
    image = image.convert("RGB")
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
        dataset, root = CIFAR[name], Path(config.data_root)
        num_classes = int(name.removeprefix("cifar"))
        if not (root / dataset.base_folder).is_dir() and not (root / dataset.filename).is_file():
            missing.append(f"--dataset {name}: {_how_to_get(dataset, root)}")
    else:
        split = Path(name, "test" if config.unlabeled_dir else "train")
        num_classes = sum(path.is_dir() for path in split.iterdir()) if split.is_dir() else 0
        if not num_classes:
            missing.append(str(_no_data_set(name)))
    if config.unlabeled_dir and not Path(config.unlabeled_dir).is_dir():
        missing.append(str(_no_images(Path(config.unlabeled_dir))))
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
    source = read_source(config.dataset, config.data_root, config.image_size, config.unlabeled_dir)
    print(f"{config.dataset}: {source.num_classes} classes, all images read")
    if config.unlabeled_dir:
        print(f"  train  {len(source.train)} images of {config.unlabeled_dir}, without labels")
    else:
        train = source.train.long_tailed(config.imbalance)
        counts = train.class_sizes(source.num_classes)
        print(f"  train  {_counted(train, counts)}")
        if groups := class_groups(counts):
            sizes = (f"{members.sum()} of {name}" for name, members in groups.items())
            print(f"         classes by their number of images: {', '.join(sizes)}")
        if config.label_fraction < 1:
            labeled = train.partly_labeled(config.label_fraction, labeled_only=True)
            print(f"  labels {_counted(labeled, labeled.class_sizes(source.num_classes))}")
    print(f"  test   {_counted(source.test, source.test.class_sizes(source.num_classes))}")


def _counted(images: Images, class_sizes: Tensor) -> str:
    return f"{len(images)} images, {class_sizes.min()} to {class_sizes.max()} a class"
