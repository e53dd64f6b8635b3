"""--check-data: describe a data set and list its missing or broken images."""

from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from gendd.config import Config
from gendd.core.errors import InvalidSetting, UserError
from gendd.data.batch import refuse_other_classes
from gendd.data.decode import SHOWN, BrokenImage, opened
from gendd.data.image_files import describe, sampled
from gendd_imagenet import shards
from gendd_imagenet.config import Photographs
from gendd_imagenet.folders import RELEASE
from gendd_imagenet.hub_images import AnyListing
from gendd_imagenet.images import EvalView
from gendd_imagenet.sources import (
    eval_folder,
    list_evaluation,
    list_training,
    refuse_unlabeled,
    summarize,
)

# Number of images to decode per shard, the first ones.
DECODED_OF_SHARD = 10


def check_data(config: Config[Photographs]) -> None:
    """List the training and evaluation images, decode a sample, and print the counts and the broken ones.

    Raises:
        UserError: an image, a file or a folder is missing or broken.
    """
    summary = summarize(config)
    if summary.missing:
        raise UserError("; ".join(summary.missing))
    view = EvalView(config.data.image_size, config.data.crop_pct, config.data.interpolation)
    evaluation = None if config.data.evaluates_held_out else list_evaluation(config)
    if evaluation and not config.data.images:
        refuse_unlabeled(config, evaluation)
    if shards.is_shards(config.data.dataset):
        problems = list(_check_shards(config.data.dataset, view))
    else:
        training = list_training(config)
        role = "to train on" if evaluation else "to train on and to hold out"
        problems = list(_check_listing(role, training, view))
        if evaluation and not config.data.unlabeled:
            refuse_other_classes(config.data.dataset, training.classes, evaluation.classes)
    if evaluation:
        problems += _check_listing("to evaluate on", evaluation, view)
    for line in problems[:SHOWN]:
        print(f"  {line}")
    if "imagenet" in (config.data.dataset, config.data.eval_dataset):
        print(f"imagenet means {RELEASE}")
    if problems:
        more = f" (the first {SHOWN} are listed)" if len(problems) > SHOWN else ""
        raise InvalidSetting(
            "dataset",
            config.data.dataset,
            f"{len(problems)} missing or broken{more}; fetch them again, or remove them "
            f"from the data set (evaluation images: {eval_folder(config)})",
        )
    print("nothing is missing or broken")


def _check_listing(role: str, listing: AnyListing, view: EvalView) -> Iterator[str]:
    sizes = "without labels"
    known = int(listing.known.sum())
    if known:
        counts = listing.class_counts(len(listing.classes))
        sizes = f"{len(counts)} classes of {counts.min()} to {counts.max()}"
        sizes += f", {len(listing) - known} without a label" if known < len(listing) else ""
    sample = sampled(len(listing))
    print(f"{listing.root}: {len(listing)} images {role}, {sizes}; {len(sample)} of them decoded")
    if listing.passed_over:
        print(f"  passed over: {describe(listing.passed_over)}")
    absent, small = listing.missing(), 0
    yield from (f"{listing.root / name}: missing" for name in absent)
    for index in tqdm(sample, f"images {role}", disable=None, leave=False):
        try:
            content = listing.content(index)
            reason = _broken(view, content)
        except FileNotFoundError:
            if absent:
                # Already listed.
                continue
            reason = "missing"
        except OSError as error:
            reason = error.strerror
        if reason:
            yield f"{listing.name(index)}: {reason}"
            continue
        with opened(content) as image:
            small += min(image.size) < view.image_size
    if small:
        print(f"  {small} of these {len(sample)} are smaller than {view.image_size} pixels and will be enlarged")


def _check_shards(dataset: str, view: EvalView) -> Iterator[str]:
    names, total = shards.expand(dataset), 0
    passed_over: Counter[str] = Counter()
    for shard in tqdm(names, "shards", disable=None, leave=False):
        try:
            for number, (name, content) in enumerate(shards.images_of(shard, passed_over)):
                total += 1
                if number < DECODED_OF_SHARD and (reason := _broken(view, content)):
                    yield f"{name}: {reason}"
        except shards.UnreadableShard as error:
            yield str(error)
    print(f"{dataset}: {len(names)} shards with {total} images; the first {DECODED_OF_SHARD} of each decoded")
    if passed_over:
        print(f"  passed over: {describe(passed_over)}")


def _broken(view: EvalView, content: bytes) -> str | None:
    try:
        view(content)
    except BrokenImage as error:
        return str(error)
    return None
