"""What a configuration's data set consists of: which folder, list or shards, and what of it is there."""

from pathlib import Path

from torch import Tensor

from gendd.data import DataSummary
from gendd.errors import UserError, naming
from gendd.listing import class_names
from gendd_imagenet import shards
from gendd_imagenet.config import ImageNetTrainConfig
from gendd_imagenet.folders import (
    EVAL_SPLITS,
    RELEASE,
    Listing,
    list_class_folders,
    list_file,
    list_unlabeled,
)


def folder_of(name: str, config: ImageNetTrainConfig) -> Path:
    """Folder of a data set."""
    return Path(config.data_root, "imagenet") if name == "imagenet" else Path(name)


def eval_folder(config: ImageNetTrainConfig) -> Path:
    """Folder with the evaluation images."""
    return folder_of(config.eval_dataset or config.dataset, config)


def class_count(folder: Path) -> int:
    """Number of class folders of a data set; 0 if it has none."""
    return max(len(class_names(folder / split)) for split in ("train", *EVAL_SPLITS))


def _eval_flag(config: ImageNetTrainConfig) -> str:
    return "--eval-dataset" if config.eval_dataset else "--dataset"


def eval_split(folder: Path) -> str:
    return next((split for split in EVAL_SPLITS if (folder / split).is_dir()), EVAL_SPLITS[0])


def list_evaluation(config: ImageNetTrainConfig) -> Listing:
    """The images to evaluate on, all of them.

    Raises:
        UserError: they are not there.
    """
    folder = eval_folder(config)
    if config.eval_list:
        with naming("--eval-list"):
            return list_file(config.eval_list, folder, class_count(folder))
    if not (folder / eval_split(folder)).is_dir():
        raise UserError(_absent(config, _eval_flag(config), folder))
    with naming(_eval_flag(config)):
        return list_class_folders(folder, eval_split(folder))


def has_training_labels(config: ImageNetTrainConfig) -> bool:
    """Whether the training images are labeled, by a list or by class folders."""
    if shards.is_shards(config.dataset):
        return False
    return bool(config.train_list or class_names(folder_of(config.dataset, config) / "train"))


def list_training(config: ImageNetTrainConfig) -> Listing:
    """The images to train on: of a list, of class folders, or all below the folder where there are none.

    Raises:
        UserError: they are not there.
    """
    folder = folder_of(config.dataset, config)
    if config.train_list:
        with naming("--train-list"):
            return list_file(config.train_list, folder, class_count(folder))
    if not folder.is_dir():
        raise UserError(_absent(config, "--dataset", folder))
    with naming("--dataset"):
        if has_training_labels(config):
            return list_class_folders(folder, "train")
        return list_unlabeled(folder / "train" if (folder / "train").is_dir() else folder)


def class_sizes(config: ImageNetTrainConfig) -> Tensor | None:
    """Number of training images (C,) of each class, if they have labels."""
    if not has_training_labels(config):
        return None
    listing = list_training(config)
    return listing.class_counts(len(listing.classes))


def _absent(config: ImageNetTrainConfig, flag: str, folder: Path) -> str:
    name = config.eval_dataset if flag == "--eval-dataset" else config.dataset
    needs = f"{RELEASE}, or link it there" if name == "imagenet" else "train/<class>/ and val/<class>/ folders"
    if flag == "--dataset" and name != "imagenet":
        needs += f", images without labels, or shards ({', '.join(shards.SHARD_ENDINGS)})"
    what = "has no such images" if folder.is_dir() else "is no folder"
    return f"{flag} {name}: {folder} {what}; it needs {needs}"


def summarize(config: ImageNetTrainConfig) -> DataSummary:
    """Number of classes, and what is missing, without walking through the images."""
    missing = []
    if shards.is_shards(config.dataset):
        absent = shards.absent_shards(shards.expand(config.dataset))
        if absent:
            missing.append(
                f"--dataset {config.dataset}: {len(absent)} of its shards are not there, such as {absent[0]}"
            )
        labeled = False
    else:
        folder = folder_of(config.dataset, config)
        labeled = not folder.is_dir() or has_training_labels(config)
        if not folder.is_dir():
            missing.append(_absent(config, "--dataset", folder))
    for flag, file in (("--train-list", config.train_list), ("--eval-list", config.eval_list)):
        if file and not Path(file).is_file():
            missing.append(f"{flag} {file}: no such file; {_list_source(file)}")
    folder = eval_folder(config)
    if not (folder.is_dir() if config.eval_list else class_names(folder / eval_split(folder))):
        missing.append(_absent(config, _eval_flag(config), folder))
    count = class_count(folder)
    if config.eval_list and Path(config.eval_list).is_file():
        count = len(list_evaluation(config).classes)
    elif not count and "imagenet" in (config.dataset, config.eval_dataset):
        count = 1000
    return DataSummary(count or None, tuple(dict.fromkeys(missing)), labeled, _details(config, folder))


def _details(config: ImageNetTrainConfig, evaluated: Path) -> str:
    words = [f"list {config.train_list}"] if config.train_list else []
    if config.steps_per_epoch:
        words.append(f"{config.steps_per_epoch} steps per epoch")
    words.append(f"crops of {config.crop_scale[0]:g}-{config.crop_scale[1]:g}, flips {config.hflip:g}")
    if config.color_jitter:
        words.append(f"color jitter {config.color_jitter:g}")
    if config.auto_augment:
        words.append(config.auto_augment)
    for name in ("mixup", "cutmix", "label_smoothing"):
        if value := getattr(config, name):
            words.append(f"{name.replace('_', ' ')} {value:g}")
    return f"{', '.join(words)}; evaluated on {config.eval_list or evaluated / eval_split(evaluated)}"


def _list_source(file: str) -> str:
    if "ImageNet_LT" in file:
        return "fetch the ImageNet-LT lists (github.com/zhmiao/OpenLongTailRecognition-OLTR) and put them there"
    return "check the path"
