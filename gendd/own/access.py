"""Training and evaluation data from batches that the user gives (`gendd.family.Access`).

The batches are `registered` in the process that trains. Each is a tensor of images (B, 3, H, W), or images
and labels (B,). The networks get the images as they are.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting, UserError
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch, DataSummary, Normalize, to_device
from gendd.data.batch import Batches as NumberedBatches
from gendd.own.config import Batches
from gendd.runs.preprocessing import Preprocessing

# Training batches are evaluated up to the one that reaches this number of images, if no evaluation batches are given.
EVALUATED = 1000


@dataclass(frozen=True)
class Given:
    """Batches for training and evaluation, the names of the classes, and the range of the first images' values."""

    training: Iterable[Any]
    evaluation: Iterable[Any] | None = None
    class_names: Sequence[str | None] = ()
    values: tuple[float, float] | None = None


_given: list[Given] = []


@contextlib.contextmanager
def registered(given: Given | None) -> Iterator[None]:
    """Register the batches of this process within the block."""
    _given[:] = [given] if given else []
    try:
        yield
    finally:
        _given.clear()


def _registered(config: Config[Batches]) -> Given:
    if not _given:
        raise InvalidSetting(
            "dataset",
            config.data.dataset,
            "these batches are Python objects; give them again, to gendd.distill(data=...) or export(batches=...)",
        )
    return _given[0]


def count_images(batches: Iterable[Any]) -> int | None:
    """Return the number of images in one pass over a DataLoader or a list of batches; None if it is unknown."""
    if isinstance(batches, Sequence):
        return sum(len(images) for images, _ in map(split, batches))
    # The sampler may draw only some images. For an iterable data set it does not have a length. With a batch sampler, a
    # loader does not state a batch size.
    sources: list[Any] = [getattr(batches, name, None) for name in ("sampler", "dataset")]
    count = next((len(source) for source in sources if hasattr(source, "__len__")), None)
    size = getattr(batches, "batch_size", None)
    if count is None or size is None:
        return None
    return count // size * size if getattr(batches, "drop_last", False) else count


def split(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Return the images and the labels of a batch; None if it has no labels.

    Raises:
        InvalidSetting: the batch has another form.
    """
    images, labels = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (batch, None)
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
        found = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(batch).__name__
        reason = f"a batch is {found}; give float images (B, 3, H, W), or a pair of images and labels (B,)"
        raise InvalidSetting("data", "", reason)
    whole = isinstance(labels, Tensor) and not labels.is_floating_point()
    if labels is not None and not (whole and labels.shape == images.shape[:1]):
        found = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        reason = f"the labels of a batch of {len(images)} images are {found}; give a tensor (B,) of integers"
        raise InvalidSetting("data", "", reason)
    return images, labels


def _checked_images(images: Tensor, side: int) -> Tensor:
    """Return images (B, 3, S, S) of the run's size S.

    Raises:
        InvalidSetting: they have another size, or a value is not finite.
    """
    if images.shape[2:] != (side, side):
        found = "x".join(map(str, images.shape[2:]))
        raise InvalidSetting("data", "", f"a batch has images of {found} pixels, the run {side}x{side}; give one size")
    if not images.isfinite().all():
        row = int(images.flatten(1).isfinite().all(1).logical_not().nonzero()[0])
        raise InvalidSetting("data", "", f"image {row} of a batch holds values that are not finite; correct or skip it")
    return images


def summarize(config: Config[Batches]) -> DataSummary:
    """Return the number of classes that the configuration states."""
    return DataSummary(
        config.data.num_classes, labeled=config.data.num_classes > 0, details="given images, as they are"
    )


def check_data(config: Config[Batches]) -> None:
    """Raise UserError: only files can be checked."""
    raise UserError("the images are given as Python objects; check them there")


def class_sizes(config: Config[Batches]) -> None:
    """Return None: the labels of given batches are not counted."""


def open_training(
    config: Config[Batches],
    num_classes: int,
    plan: BatchPlan,
    world: World,
    network: nn.Module,
    labeled_only: bool = False,
) -> "TrainingBatches":
    """Return the given batches, cut to the run's batch size. Print a note if the images do not look normalized.

    Raises:
        InvalidSetting: several processes train, or the number of steps is unknown.
    """
    if world.size > 1:
        raise InvalidSetting("data", "", "given batches train in one process; name a folder of images for several")
    given = _registered(config)
    if given.values and (doubt := Preprocessing.of(network, config.data).doubt(*given.values)):
        print(f"  values     {doubt}", flush=True)
    return TrainingBatches(given, config, plan, world.device)


def open_evaluation(
    config: Config[Batches], plan: BatchPlan, world: World, network: nn.Module, of_training: bool = False
) -> "EvaluationBatches":
    """Return the evaluation batches, or the first of the training batches if there are none."""
    given = _registered(config)
    batches = None if of_training else given.evaluation
    return EvaluationBatches(given, batches, config, Normalize.of(network, world.device), world.device)


class TrainingBatches:
    """Training batches (`gendd.data.batch.TrainingData`). Each epoch starts the iterable again."""

    class_sizes, broken_images = None, 0

    def __init__(self, given: Given, config: Config[Batches], plan: BatchPlan, device: torch.device):
        self.given, self.plan, self.device, self.labeled = given, plan, device, not config.data.unlabeled
        self.class_names, self.passed_over = tuple(given.class_names), Counter[str]()
        self.image_size = config.data.image_size
        size, data = count_images(given.training), config.data
        if size is None and not data.steps_per_epoch:
            reason = "the number of images in the batches is unknown; give the number of steps per epoch"
            raise InvalidSetting("steps_per_epoch", 0, reason)
        self.steps_per_epoch = data.steps_per_epoch or (size or 0) // plan.batch
        self.size = size or self.steps_per_epoch * plan.batch
        if not self.steps_per_epoch:
            raise InvalidSetting("batch_size", plan.batch, f"more than the {self.size} training images; lower it")

    def checksum(self) -> None:
        """Return None: the images have no files."""

    contents = checksum

    def batches(self, steps: range) -> Iterator[Batch]:
        images, labels = torch.empty(0), torch.empty(0, dtype=torch.int64)
        stream, count = self._stream(), self.plan.micro_batch_size
        for step in steps:
            for random in self.plan.micro_batches(step):
                while len(images) < count:
                    more, more_labels = next(stream)
                    images = torch.cat([images, more]) if len(images) else more
                    labels = torch.cat([labels, more_labels]) if len(labels) else more_labels
                epoch = step // self.steps_per_epoch + 1
                yield Batch(self._placed(images[:count]), to_device(labels[:count], self.device), random, epoch)
                images, labels = images[count:], labels[count:]

    def _placed(self, images: Tensor) -> Tensor:
        return to_device(images, self.device).float().contiguous(memory_format=torch.channels_last)

    def _stream(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all batches again and again."""
        for number in itertools.count():
            seen = 0
            for batch in self.given.training:
                seen += 1
                yield self._checked(batch)
            if not seen:
                ended = "yields only one pass" if number else "yields no batch"
                raise InvalidSetting("data", "", f"the iterable {ended}; give one that starts again, like a DataLoader")

    def _checked(self, batch: Any) -> tuple[Tensor, Tensor]:
        images, labels = split(batch)
        _checked_images(images, self.image_size)
        if not self.labeled:
            return images, torch.full((len(images),), -1)
        return images, checked_labels(labels, len(self.class_names))

    def view_settings(self) -> dict:
        raise NotImplementedError

    def view_batches(self, batches: Sequence[tuple[int, range]]) -> Iterator[Tensor]:
        raise NotImplementedError


class EvaluationBatches:
    """Evaluation batches (`gendd.data.batch.EvaluationData`); the first training images if none are given."""

    def __init__(
        self,
        given: Given,
        evaluation: Iterable[Any] | None,
        config: Config[Batches],
        normalize: Normalize,
        device: torch.device,
    ):
        self.class_names, self.passed_over = tuple(given.class_names), Counter[str]()
        self.dataset, self.image_size = config.data.dataset, config.data.image_size
        # A training without labels is evaluated with them, if there are classes.
        self.normalize, self.device, self.labeled = normalize, device, bool(self.class_names)
        self.split = "train" if evaluation is None else "evaluation"
        self.given = list(_first(given.training, EVALUATED)) if evaluation is None else evaluation
        size = count_images(self.given)
        self.size = sum(len(split(batch)[0]) for batch in self.given) if size is None else size
        if next(iter(self.given), None) is None:
            reason = "yields no batch, or only one pass; give batches that start again, like a DataLoader"
            raise InvalidSetting("evaluation", "", reason)

    def checksum(self) -> None:
        """Return None: the images have no files."""

    def batches(self, limit: int = 0) -> NumberedBatches:
        """Yield the first `limit` images (0: all), in the order of the batches."""
        left = limit or self.size
        for number, batch in enumerate(self.given):
            images, labels = split(batch)
            rows = slice(0, min(left, len(images)))
            known = checked_labels(labels, len(self.class_names)) if self.labeled else torch.full((len(images),), -1)
            placed = (
                _checked_images(images, self.image_size)[rows]
                .to(self.device)
                .float()
                .contiguous(memory_format=torch.channels_last)
            )
            yield number, placed, known[rows].to(self.device)
            left -= len(placed)
            if left <= 0:
                return


def checked_labels(labels: Tensor | None, classes: int) -> Tensor:
    """Return the labels (B,) as int64.

    Raises:
        InvalidSetting: a label is missing or not below the number of classes.
    """
    if labels is None:
        raise InvalidSetting(
            "data", "", "a batch has no labels; give pairs of images and labels, or leave `classes` out"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        found = f"from {int(labels.min())} to {int(labels.max())}"
        raise InvalidSetting("data", "", f"the labels of a batch go {found}, but there are {classes} classes")
    return labels.long()


def _first(batches: Iterable[Any], count: int) -> Iterator[Any]:
    for batch in batches:
        yield batch
        count -= len(split(batch)[0])
        if count <= 0:
            return
