"""Given batches, cut to the run's batch size for training, and numbered for evaluation."""

import pytest
import torch
from lines import refuses
from toy import ToyNetwork

from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.methods.gendd import GenDD
from gendd.own import access
from gendd.own.family import FAMILY

WORLD = World(0, 1, 0, torch.device("cpu"))
CLASSES = 5


def numbered(count: int) -> list:
    """Return batches of 8 images, all of whose pixels are the image's number."""
    images = torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, 16, 16)
    return list(zip(images.split(8), (torch.arange(count) % CLASSES).split(8), strict=True))


@pytest.fixture
def config():
    own = {"image_size": 16, "num_classes": CLASSES, "batch_size": 6, "student": "timm/test_resnet"}
    return FAMILY.config(GenDD(), **own)


@pytest.mark.parametrize("micro", [1, 3])
def test_training_batches_keep_each_image_with_its_label(config, micro):
    plan = BatchPlan(0, 6, grad_accum_steps=micro)
    with access.registered(access.Given(numbered(20), class_names=(None,) * CLASSES)):
        data = access.open_training(config, CLASSES, plan, WORLD, ToyNetwork(CLASSES))
        batches = list(data.batches(range(3, 6)))
    assert data.steps_per_epoch == 3 and {batch.epoch for batch in batches} == {2}
    numbers = torch.cat([batch.images[:, 0, 0, 0] for batch in batches])
    assert numbers.tolist() == list(range(18))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), numbers.long() % CLASSES)


@pytest.mark.parametrize("limit, count", [(0, 20), (3, 3), (11, 11)])
def test_evaluation_batches_keep_each_image_with_its_label(config, limit, count):
    network = ToyNetwork(CLASSES)
    network.pretrained_cfg = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    with access.registered(access.Given(numbered(8), numbered(20), (None,) * CLASSES)):
        data = access.open_evaluation(config, BatchPlan(0, 1), WORLD, network)
        steps, images, labels = zip(*data.batches(limit), strict=True)
    numbers = torch.cat(images)[:, 0, 0, 0]
    assert (data.size, data.split) == (20, "evaluation") and steps == tuple(range(len(steps)))
    assert numbers.tolist() == list(range(count))
    assert torch.equal(torch.cat(labels), numbers.long() % CLASSES)


def test_nonfinite_image_is_refused_by_its_number(config):
    network = ToyNetwork(CLASSES)
    network.pretrained_cfg = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    broken = [(images.clone(), labels) for images, labels in numbered(20)]
    broken[1][0][5, 0, 0, 0] = float("nan")
    with access.registered(access.Given(broken, broken, (None,) * CLASSES)):
        training = access.open_training(config, CLASSES, BatchPlan(0, 6), WORLD, network)
        evaluation = access.open_evaluation(config, BatchPlan(0, 1), WORLD, network)
        for read in (lambda: list(training.batches(range(3))), lambda: list(evaluation.batches())):
            with refuses("image 5 of a batch holds values that are not finite"):
                read()
