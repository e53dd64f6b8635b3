"""Small images: the whole set lives on the device as uint8 and is augmented a batch at a time.

Shapes: N images of a set, B of a batch, S pixels a side.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from gendd import subsets
from gendd.data import DataSummary, image_files
from gendd.distributed import World
from gendd.errors import UserError, unknown_name
from gendd.evaluation import class_groups
from gendd.randomness import BatchPlan, Shuffled, StepRandom, generator
from gendd_cifar.config import CifarTrainConfig

CIFAR = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}
NAMES = ("digits", *CIFAR)
SPLITS = ("train", "test")
# Small enough for a core's caches: 500 took a sixth longer an image (resnet20, bf16, one thread).
EVAL_BATCH = 250


@dataclass(frozen=True)
class Images:
    """A set of images (N, 3, S, S) uint8 with their labels (N,) int64, -1 where they are not known."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor) -> "Images":
        return Images(self.images[indices], self.labels[indices])

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
        counts = _class_sizes(train.labels, source.num_classes)
        print(f"  train  {_counted(train, counts)}")
        if groups := class_groups(counts):
            sizes = (f"{members.sum()} of {name}" for name, members in groups.items())
            print(f"         classes by their number of images: {', '.join(sizes)}")
        if config.label_fraction < 1:
            known = subsets.labeled(train.labels, config.label_fraction)
            counts = _class_sizes(train.labels[known], source.num_classes)
            print(f"  labels {_counted(train.select(known), counts)}")
    print(f"  test   {_counted(source.test, _class_sizes(source.test.labels, source.num_classes))}")


def _class_sizes(labels: Tensor, num_classes: int) -> Tensor:
    """Number of images (C,) of each class; those without a label belong to none."""
    return torch.bincount(labels[labels >= 0], minlength=num_classes)


def _counted(images: Images, class_sizes: Tensor) -> str:
    return f"{len(images)} images, {class_sizes.min()} to {class_sizes.max()} a class"


def open_data(
    config: CifarTrainConfig, plan: BatchPlan, world: World, network: nn.Module, labeled_only: bool = False
) -> "ImageData":
    """Read the configuration's images onto the device, normalised as the network wants them."""
    with world.local_first():
        source = read_source(config.dataset, config.data_root, config.image_size, config.unlabeled_dir)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    augmentation = (config.crop_padding, config.hflip)
    chosen = (config.holdout, config.views, config.imbalance, config.label_fraction, labeled_only)
    return ImageData(source, plan, world.device, mean, std, *augmentation, *chosen)


class ImageData:
    """A source as the training loop wants it (`gendd.data.Data`). All images are read at once: none is passed over.

    Args:
        plan: how the global batch is divided.
        mean, std: of the network that the images are for, in [0, 1] units.
        holdout: fraction of the training images set apart, the same for every seed; evaluation then uses them.
        cached_views: views an image that the epochs show in turn; 0: each time a new one.
        imbalance: makes what is left a long-tailed training set (`gendd.subsets`), and what is evaluated not.
        label_fraction: share of the training images that keep their labels.
        labeled_only: train on these alone; else on all, the others with label -1.
    """

    def __init__(
        self,
        source: Source,
        plan: BatchPlan,
        device: torch.device,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        crop_padding: int = 4,
        hflip: float = 0.5,
        holdout: float = 0.0,
        cached_views: int = 0,
        imbalance: float = 1.0,
        label_fraction: float = 1.0,
        labeled_only: bool = False,
    ):
        self.plan, self.device, self.crop_padding, self.hflip = plan, device, crop_padding, hflip
        self.cached_views, self.drawn_view, self.drawn = cached_views, None, None
        self.broken_images = 0
        self.num_classes, self.image_size = source.num_classes, source.train.images.shape[-1]
        train, evaluation, self.eval_split = source.train, source.test, "test"
        if holdout:
            order = torch.randperm(len(train), generator=generator("cpu", "holdout"))
            held = round(holdout * len(train))
            train, evaluation, self.eval_split = train.select(order[held:]), train.select(order[:held]), "validation"
        train = train.long_tailed(imbalance)
        # The groups of a data set are the same for all methods: they are of all its training images.
        self.class_groups = class_groups(_class_sizes(train.labels, self.num_classes))
        if label_fraction < 1:
            train = train.partly_labeled(label_fraction, labeled_only)
        # In a fixed random order: folders come sorted by class, and a subset should hold them all.
        evaluation = evaluation.select(torch.randperm(len(evaluation), generator=generator("cpu", "evaluation order")))
        for split, data in (("training", train), (self.eval_split, evaluation)):
            if not len(data):
                raise UserError(f"--dataset: its {split} split is empty; --holdout {holdout} leaves nothing there")
        self.train_size, self.eval_size = len(train), len(evaluation)
        self.steps_per_epoch = self.train_size // plan.batch
        if not self.steps_per_epoch:
            raise UserError(f"--batch-size {plan.batch}: more than the {self.train_size} training images; lower it")
        padded = torch.nn.functional.pad(train.images, (crop_padding,) * 4)
        self.train_images, self.train_labels = padded.to(device), train.labels.to(device)
        self.eval_images, self.eval_labels = evaluation.images.to(device), evaluation.labels.to(device)
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.order = Shuffled(self.train_size)

    def train_batches(self, steps: range):
        for step in steps:
            for random in self.plan.parts(step):
                yield random, *self.train_batch(random)

    def train_batch(self, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) of a part of a step, cropped, flipped and normalised, and their labels (B,)."""
        if self.cached_views:
            view, indices = self.views(random)
            images = self.view(view, indices)
        else:
            _, indices = self.order.part(random)
            corner, flipped = self.draw(random.generator("augmentation", "cpu"), random.batch)
            images = self.augmented(indices, corner[:, random.rows], flipped[random.rows])
        return images, self.train_labels[indices.to(self.device)]

    def draw(self, noise: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
        """Top and left of crops (2, count), and which are flipped (count,)."""
        corner = torch.randint(2 * self.crop_padding + 1, (2, count), generator=noise)
        return corner, torch.rand(count, generator=noise) < self.hflip

    def augmented(self, indices: Tensor, corner: Tensor, flipped: Tensor) -> Tensor:
        """Training images (B, 3, S, S) normalised, each with its crop (2, B) and flip (B,)."""
        # All crops of all images as a view (N, 3, 2P+1, 2P+1, S, S); the indices pick one crop an image.
        windows = self.train_images.unfold(2, self.image_size, 1).unfold(3, self.image_size, 1)
        top, left = corner.to(self.device)
        images = windows[indices.to(self.device), :, top, left]
        images = torch.where(flipped.to(self.device)[:, None, None, None], images.flip(-1), images)
        return self.normalize(images)

    def view(self, view: int, indices: Tensor) -> Tensor:
        """Training images (B, 3, S, S), normalised, in one of their cached views, which are the same for every seed."""
        if view != self.drawn_view:
            noise = generator("cpu", "cached view", view)
            self.drawn_view, self.drawn = view, self.draw(noise, self.train_size)
        corner, flipped = self.drawn
        return self.augmented(indices, corner[:, indices], flipped[indices])

    def view_settings(self) -> dict:
        padding = self.crop_padding
        images = self.train_images[:, :, padding : padding + self.image_size, padding : padding + self.image_size]
        return {
            "images": self.train_size,
            "images_sha256": hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest(),
            "image_size": self.image_size,
            "crop_padding": self.crop_padding,
            "hflip": self.hflip,
        }

    def views(self, random: StepRandom) -> tuple[int, Tensor]:
        number, indices = self.order.part(random)
        return number % self.cached_views, indices

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        for view, rows in batches:
            yield self.view(view, torch.arange(rows.start, rows.stop))

    def eval_batches(self, limit: int = 0):
        size = min(limit or self.eval_size, self.eval_size)
        for number, first in enumerate(range(0, size, EVAL_BATCH)):
            if number % self.plan.world == self.plan.rank:
                rows = slice(first, min(first + EVAL_BATCH, size))
                yield number, self.normalize(self.eval_images[rows]), self.eval_labels[rows]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) to normalised float32, channels last."""
        return torch.addcmul(self.shift, images.to(memory_format=torch.channels_last).float(), self.scale)
