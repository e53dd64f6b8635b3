"""Resolve a configuration's data set to folders, lists or shards, and find what is missing."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from gendd.config import Config
from gendd.core.errors import InvalidSetting, InvalidValue, naming, no_such
from gendd.data.batch import DataSummary
from gendd.data.image_files import class_names
from gendd_imagenet import hub_images, shard_index, shards
from gendd_imagenet.config import Photographs
from gendd_imagenet.folders import (
    EVAL_SPLITS,
    RELEASE,
    list_class_folders,
    list_file,
    list_reassessed,
    list_unlabeled,
)
from gendd_imagenet.hub_images import AnyListing, HubListing, is_hub, list_hub

UNKNOWN_SIZES = (
    f"the number of images in the shards is unknown, without a {shard_index.NAME} beside them that names all; make it "
    "by python -m gendd_imagenet.make_shards --index SHARDS, or give a number of steps"
)
# Name of held-out training images in the printed plan.
HELD_OUT = "a part held out"
# Held out from --images: a share of them, with a minimum and a maximum count. The minimum is at most a tenth.
HELD_SHARE, LEAST_HELD, MOST_HELD, LARGEST_SHARE = 0.02, 50, 1000, 0.1


def folder_of(name: str, config: Config[Photographs]) -> Path:
    """Return the folder of a data set."""
    return Path(config.data.data_root, "imagenet") if name == "imagenet" else Path(name)


def eval_folder(config: Config[Photographs]) -> Path:
    """Return the folder with the evaluation images."""
    return folder_of(config.data.eval_dataset or config.data.dataset, config)


def class_count(folder: Path) -> int:
    """Count the class folders of a data set."""
    return max(len(class_names(folder / split)) for split in ("train", *EVAL_SPLITS))


def eval_field(config: Config[Photographs]) -> str:
    """Return the field that names the evaluation images."""
    return "eval_dataset" if config.data.eval_dataset else "dataset"


def eval_split(folder: Path) -> str:
    return next((split for split in EVAL_SPLITS if (folder / split).is_dir()), EVAL_SPLITS[0])


def held_share(config: Config[Photographs], images: int) -> float:
    """Return the share of `images` training images to hold out for evaluation; 0 if there are evaluation images."""
    if config.data.holdout or not config.data.images or config.data.eval_dataset:
        return config.data.holdout
    least = min(LEAST_HELD, max(LARGEST_SHARE * images, 1))
    return min(max(HELD_SHARE * images, least), MOST_HELD) / images


def list_evaluation(config: Config[Photographs]) -> AnyListing:
    """List all evaluation images; with --images they come without classes.

    Raises:
        UserError: the images are missing.
    """
    if is_hub(name := config.data.eval_dataset or config.data.dataset):
        with naming(eval_field(config)):
            listing = list_hub(name, hub_images.EVALUATION)
            return _without_labels(listing) if config.data.images else _labeled(listing, "name another `eval_dataset`")
    folder = eval_folder(config)
    if config.data.images:
        with naming("eval_dataset"):
            return list_unlabeled(folder)
    if config.data.eval_list:
        with naming("eval_list"):
            if config.data.eval_list.endswith(".json"):
                return list_reassessed(config.data.eval_list, folder, eval_split(folder))
            return list_file(config.data.eval_list, folder, class_count(folder), once=True)
    if not (folder / eval_split(folder)).is_dir():
        raise _absent(config, eval_field(config), folder)
    with naming(eval_field(config)):
        return list_class_folders(folder, eval_split(folder))


def refuse_unlabeled(config: Config[Photographs], evaluation: AnyListing, held_out: bool = False) -> None:
    """Refuse evaluation images without a single label.

    Args:
        held_out: whether the images are held-out training images.

    Raises:
        InvalidSetting: no image has a label; the error names the list or the data set.
    """
    field = "eval_list" if config.data.eval_list else eval_field(config)
    field = "dataset" if held_out else field
    if not evaluation.known.any():
        raise InvalidSetting(
            field, getattr(config.data, field), "no evaluation image has a label; name images with labels"
        )


def has_training_labels(config: Config[Photographs]) -> bool:
    """Return whether the training images are labeled, by a list, a column or class folders."""
    if config.data.images or shards.is_shards(config.data.dataset):
        return False
    if is_hub(config.data.dataset):
        return bool(list_training(config).known.any())
    return bool(config.data.train_list or class_names(folder_of(config.data.dataset, config) / "train"))


def training_field(config: Config[Photographs]) -> str:
    """Return the setting that names the training images."""
    return "images" if config.data.images else "dataset"


def list_training(config: Config[Photographs]) -> AnyListing:
    """List the training images: from a list, from class folders, or else all below the folder.

    Raises:
        UserError: the images are missing, or they are in shards.
    """
    if shards.is_shards(config.data.dataset):
        reason = "only training reads shards; give a folder of images as `dataset`, if this program has the flag"
        raise InvalidSetting(training_field(config), config.data.dataset, reason)
    if is_hub(config.data.dataset):
        with naming(training_field(config)):
            listing = list_hub(config.data.dataset, hub_images.TRAIN)
            if config.data.images:
                return _without_labels(listing)
            return listing if config.data.unlabeled else _labeled(listing, "train without labels: `unlabeled`")
    folder = folder_of(config.data.dataset, config)
    if config.data.images:
        with naming("images"):
            return list_unlabeled(folder)
    if config.data.train_list:
        with naming("train_list"):
            return list_file(config.data.train_list, folder, class_count(folder))
    if not folder.is_dir():
        raise _absent(config, "dataset", folder)
    with naming("dataset"):
        if has_training_labels(config):
            return list_class_folders(folder, "train")
        return list_unlabeled(folder / "train" if (folder / "train").is_dir() else folder)


def _without_labels(listing: HubListing) -> HubListing:
    return replace(listing, labels=None, classes=())


def _labeled(listing: HubListing, remedy: str) -> HubListing:
    """Refuse a data set without a clear label column, or with labels that the training split does not contain."""
    if listing.labels is None:
        columns = ", ".join(listing.columns)
        raise InvalidValue(
            f"{hub_images.PREFIX}{listing.root}",
            f"has the columns {columns}, and none is clearly the label; name a column of text, integers or ClassLabel "
            f"label, for instance with rename_column of datasets, or {remedy}",
        )
    if listing.unlearned:
        raise InvalidValue(
            f"{hub_images.PREFIX}{listing.root}",
            f"its split {listing.split} has labels that are not in train, such as "
            f"{', '.join(listing.unlearned[:3])}; give both splits the same labels, or {remedy}",
        )
    return listing


def class_sizes(config: Config[Photographs]) -> Tensor | None:
    """Return the number of training images per class (C,), or None without labels."""
    if not has_training_labels(config):
        return None
    listing = list_training(config)
    return listing.class_counts(len(listing.classes))


def _absent(config: Config[Photographs], field: str, folder: Path) -> InvalidSetting:
    name = config.data.eval_dataset if field == "eval_dataset" else config.data.dataset
    needs = f"{RELEASE}, or link it there" if name == "imagenet" else "train/<class>/ and val/<class>/ folders"
    if field == "dataset" and name != "imagenet":
        needs += f", images without labels, or shards ({', '.join(shards.SHARD_ENDINGS)})"
    if class_names(folder / "train"):
        needs += f"; {hub_images.OTHER_EVALUATION}"
    what = f"{folder} does not contain these images" if folder.is_dir() else no_such(folder, "folder")
    if name == "imagenet" and not folder.is_dir():
        what = f"{folder}: {what}"
    return InvalidSetting(field, name, f"{what}; it needs {needs}")


def summarize(config: Config[Photographs]) -> DataSummary:
    """Count the classes and list missing files without reading the images."""
    if config.data.images:
        return _summarize_images(config, config.data.images)
    missing, held = [], config.data.evaluates_held_out
    if is_hub(config.data.dataset):
        labeled = has_training_labels(config)
    elif shards.is_shards(config.data.dataset):
        missing += _missing_of_shards("dataset", config)
        labeled = False
    else:
        folder = folder_of(config.data.dataset, config)
        labeled = not folder.is_dir() or has_training_labels(config)
        if not folder.is_dir():
            missing.append(str(_absent(config, "dataset", folder)))
    for field, file in (("train_list", config.data.train_list), ("eval_list", config.data.eval_list)):
        if file and not Path(file).is_file():
            missing.append(str(InvalidSetting(field, file, f"{no_such(file)}; {_list_source(file)}")))
    if is_hub(config.data.eval_dataset or config.data.dataset):
        listing = list_training(config) if held else list_evaluation(config)
        details = _details(config, HELD_OUT if held else listing.root)
        return DataSummary(len(listing.classes) or None, tuple(missing), labeled=labeled, details=details)
    folder = eval_folder(config)
    if not held and not (folder.is_dir() if config.data.eval_list else class_names(folder / eval_split(folder))):
        missing.append(str(_absent(config, eval_field(config), folder)))
    count = class_count(folder)
    if config.data.eval_list and Path(config.data.eval_list).is_file():
        count = len(list_evaluation(config).classes)
    elif not count and "imagenet" in (config.data.dataset, config.data.eval_dataset):
        count = 1000
    evaluated = HELD_OUT if held else config.data.eval_list or folder / eval_split(folder)
    details = _details(config, evaluated)
    return DataSummary(count or None, tuple(dict.fromkeys(missing)), labeled=labeled, details=details)


def _summarize_images(config: Config[Photographs], images: str) -> DataSummary:
    missing = []
    if shards.is_shards(images):
        missing += _missing_of_shards("images", config)
    elif is_hub(images):
        list_training(config)
    elif not Path(images).is_dir():
        missing.append(_no_folder("images", images))
    if (
        config.data.eval_dataset
        and not is_hub(config.data.eval_dataset)
        and not Path(config.data.eval_dataset).is_dir()
    ):
        missing.append(_no_folder("eval_dataset", config.data.eval_dataset))
    evaluated = config.data.eval_dataset or HELD_OUT
    return DataSummary(0, tuple(missing), labeled=False, details=_details(config, evaluated))


def _no_folder(field: str, path: str) -> str:
    return str(InvalidSetting(field, path, f"{no_such(path, 'folder')}; name a folder of images"))


def _missing_of_shards(field: str, config: Config[Photographs]) -> list[str]:
    """List missing shards, or the missing number of their images, one line for each kind."""
    dataset = config.data.dataset
    with naming(field):
        names = shards.expand(dataset)
        if absent := shards.absent_shards(names):
            return [f"`{field}` {dataset}: {len(absent)} of its shards are missing, such as {absent[0]}"]
        if not config.data.steps_per_epoch and not shard_index.read_sizes(names):
            return [str(InvalidSetting("steps_per_epoch", None, UNKNOWN_SIZES))]
    return []


def _details(config: Config[Photographs], evaluated: Path | str) -> str:
    words = [f"list {config.data.train_list}"] if config.data.train_list else []
    if config.data.steps_per_epoch:
        words.append(f"{config.data.steps_per_epoch} steps per epoch")
    words.append(f"crops of {config.data.crop_scale[0]:g}-{config.data.crop_scale[1]:g}, flips {config.data.hflip:g}")
    if config.data.color_jitter:
        words.append(f"color jitter {config.data.color_jitter:g}")
    if config.data.auto_augment:
        words.append(config.data.auto_augment)
    for name in ("mixup", "cutmix", "label_smoothing"):
        if value := getattr(config.data, name):
            words.append(f"{name.replace('_', ' ')} {value:g}")
    return f"{', '.join(words)}; evaluated on {evaluated}"


def _list_source(file: str) -> str:
    if "ImageNet_LT" in file:
        return "fetch the ImageNet-LT lists (github.com/zhmiao/OpenLongTailRecognition-OLTR) and put them there"
    return "check the path"
