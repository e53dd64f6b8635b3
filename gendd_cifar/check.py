"""--check-data: describe a data set and list its missing or broken images."""

from collections import Counter

from torch import Tensor

from gendd.config import Config
from gendd.core.errors import InvalidSetting
from gendd.data.batch import HELD_OUT, refuse_other_classes
from gendd.data.decode import SHOWN
from gendd.data.image_files import describe
from gendd.evaluation.accuracy import class_groups
from gendd_cifar.config import SmallImages
from gendd_cifar.sources import SPLITS, BrokenFiles, Images, read_source, read_unlabeled


def check_data(config: Config[SmallImages]) -> None:
    """Read all images that a training uses, and print how many there are.

    Raises:
        UserError: an image or a folder is missing or broken.
    """
    sources = {}
    broken: list[str] = []
    for split in SPLITS[:1] if config.data.holdout else SPLITS:
        try:
            if split == "train" and config.data.unlabeled_dir:
                sources[split] = read_unlabeled(config.data.unlabeled_dir, config.data.image_size)
            else:
                sources[split] = read_source(config.data.dataset, config.data.data_root, split, config.data.image_size)
        except BrokenFiles as error:
            broken += error.lines
    if broken:
        for line in broken[:SHOWN]:
            print(f"  {line}")
        more = f" (the first {SHOWN} are listed)" if len(broken) > SHOWN else ""
        raise InvalidSetting(
            "dataset", config.data.dataset, f"{len(broken)} images are broken{more}; remove or replace them"
        )
    train, test = sources["train"], sources.get("test", sources["train"])
    refuse_other_classes(config.data.dataset, train.class_names, test.class_names)
    print(f"{config.data.dataset}: {len(test.class_names)} classes, all images read")
    if passed_over := sum((source.passed_over for source in sources.values()), Counter()):
        print(f"  passed over: {describe(passed_over)}")
    if config.data.unlabeled_dir:
        print(f"  train  {len(train.images)} images of {config.data.unlabeled_dir}, without labels")
        evaluated = test.images
    else:
        images, evaluated = train.images, test.images
        if config.data.holdout:
            images, evaluated = images.hold_out(config.data.holdout)
        _describe_training(config, images.long_tailed(config.data.imbalance), len(train.class_names))
    split = HELD_OUT if config.data.holdout else "test"
    print(f"  {split:<6} {_counted(evaluated, evaluated.class_counts(len(test.class_names)))}")


def _describe_training(config: Config[SmallImages], train: Images, num_classes: int) -> None:
    counts = train.class_counts(num_classes)
    print(f"  train  {_counted(train, counts)}")
    if groups := class_groups(counts):
        sizes = (f"{members.sum()} of {name}" for name, members in groups.items())
        print(f"         classes by their number of images: {', '.join(sizes)}")
    if config.data.label_fraction < 1:
        labeled = train.partly_labeled(config.data.label_fraction, labeled_only=True)
        print(f"  labels {_counted(labeled, labeled.class_counts(num_classes))}")


def _counted(images: Images, class_sizes: Tensor) -> str:
    return f"{len(images)} images, {class_sizes.min()} to {class_sizes.max()} per class"
