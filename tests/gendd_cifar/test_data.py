"""Batches of small images: augmentation, order, long tails and few labels."""

import numpy as np
import pytest
import torch
from small_images import CPU, MEAN, STD, config, evaluation, numbered, opened, refusal, training

from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan, generator
from gendd_cifar.data import EVAL_BATCH, open_evaluation, open_training
from gendd_cifar.sources import Images


def epoch_labels(images, epoch):
    steps = images.steps_per_epoch
    batches = images.batches(range(epoch * steps, (epoch + 1) * steps))
    return torch.cat([batch.labels for batch in batches]).tolist()


def augmented(image, top, left, flip, padding):
    """Augment an image (3, S, S) uint8 pixel by pixel."""
    side = image.shape[-1]
    result = np.zeros(image.shape, np.float64)
    for row in range(side):
        for column in range(side):
            from_row, from_column = row + top - padding, column + left - padding
            inside = 0 <= from_row < side and 0 <= from_column < side
            pixel = image[:, from_row, from_column] if inside else np.zeros(3)
            result[:, row, side - 1 - column if flip else column] = (pixel / 255 - MEAN) / STD
    return result


@pytest.mark.parametrize(("crop_padding", "hflip"), [(4, 0.5), (2, 1.0), (1, 0.0), (0, 0.5)])
def test_augmentation_equals_a_slow_implementation(crop_padding, hflip):
    given = numbered(20)
    for batch in training(given, crop_padding=crop_padding, hflip=hflip).batches(range(7)):
        draws = batch.random.generator("augmentation", "cpu")
        tops, lefts = torch.randint(2 * crop_padding + 1, (2, 6), generator=draws)
        flips = torch.rand(6, generator=draws) < hflip
        assert batch.images.dtype == torch.float32
        for image, label, top, left, flip in zip(batch.images, batch.labels, tops, lefts, flips, strict=True):
            expected = augmented(given.images[label].numpy(), int(top), int(left), bool(flip), crop_padding)
            np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)


def test_cached_views_equal_slow_ones_and_alternate():
    given = numbered(20)
    images, seen = training(given, seed=5, cached_views=2), {}
    for batch in images.batches(range(4 * images.steps_per_epoch)):
        view = batch.random.step // images.steps_per_epoch % 2
        assert batch.view == view and torch.equal(batch.indices, batch.labels)
        draws = generator("cpu", "cached view", view)
        tops, lefts = torch.randint(9, (2, 20), generator=draws)
        flips = torch.rand(20, generator=draws) < 0.5
        for image, label in zip(batch.images, batch.labels, strict=True):
            where = int(tops[label]), int(lefts[label]), bool(flips[label])
            expected = augmented(given.images[label].numpy(), *where, 4)
            np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
            seen.setdefault((view, int(label)), []).append(image)
    twice = [pair for pair in seen.values() if len(pair) == 2]
    assert len(twice) > 20 and all(torch.equal(*pair) for pair in twice)
    for (view, label), (image, *_) in seen.items():
        (again,) = images.view_batches([(view, range(label, label + 1))])
        assert torch.equal(again[0], image)


def test_crops_cover_their_whole_range():
    # A white image shows its crop as 0 to 4 black rows and columns at one side.
    white_images = Images(torch.full((6, 3, 6, 6), 255, dtype=torch.uint8), torch.arange(6))
    seen = set()
    for batch in training(white_images).batches(range(200)):
        white = batch.images[:, 0] > 0
        seen |= set(zip(white.any(2).sum(1).tolist(), white.any(1).sum(1).tolist(), strict=True))
    assert seen == {(height, width) for height in range(2, 7) for width in range(2, 7)}


def test_half_of_the_images_are_flipped():
    half = torch.zeros(6, 3, 6, 6, dtype=torch.uint8)
    half[..., :3] = 255
    half_white = training(Images(half, torch.arange(6)), crop_padding=0)
    flipped = torch.cat([batch.images[:, 0, 0, 0] < 0 for batch in half_white.batches(range(200))])
    assert len(flipped) == 1200 and 0.45 < flipped.float().mean() < 0.55


def test_images_without_augmentation_are_normalized_exactly():
    given = numbered(20)
    images = training(given, crop_padding=0, hflip=0)
    expected = (given.images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for batch in images.batches(range(3)):
        torch.testing.assert_close(batch.images.double(), expected[batch.labels], atol=1e-5, rtol=0)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_epoch_uses_each_image_at_most_once():
    images = training(20, batch=6)
    assert images.steps_per_epoch == 3
    for epoch in range(4):
        assert len(set(epoch_labels(images, epoch))) == 18
    whole = training(20, batch=5)
    assert sorted(epoch_labels(whole, 1)) == list(range(20))


def test_batches_depend_on_epoch_and_seed_only():
    images = training(seed=3)
    first, second = epoch_labels(images, 0), epoch_labels(images, 1)
    assert first != second
    assert epoch_labels(images, 0) == first == epoch_labels(training(seed=3), 0)
    assert epoch_labels(training(seed=4), 0) != first


def test_resumed_run_gets_the_batches_of_its_steps():
    going, resumed = training(seed=1), training(seed=1)
    expected = list(going.batches(range(9)))[5:]
    for batch, again in zip(expected, resumed.batches(range(5, 9)), strict=True):
        assert torch.equal(batch.images, again.images) and torch.equal(batch.labels, again.labels)
        assert batch.epoch == again.epoch == batch.random.step // going.steps_per_epoch + 1


@pytest.mark.parametrize(("world", "grad_accum_steps"), [(2, 1), (1, 2), (2, 2), (3, 2)])
def test_micro_batches_of_all_processes_form_one_batch(world, grad_accum_steps):
    whole = list(training(40, batch=12).batches(range(4)))
    parts = [
        list(training(40, batch=12, rank=rank, world=world, grad_accum_steps=grad_accum_steps).batches(range(4)))
        for rank in range(world)
    ]
    for step, batch in enumerate(whole):
        filled = torch.zeros(12, dtype=torch.int)
        for some in (some for one in parts for some in one if some.random.step == step):
            rows = some.random.rows
            assert torch.equal(some.images, batch.images[rows]) and torch.equal(some.labels, batch.labels[rows])
            assert torch.equal(some.indices, batch.indices[rows])
            filled[rows] += 1
        assert (filled == 1).all()


@pytest.mark.parametrize(("fraction", "held"), [(0.1, 2), (0.25, 5), (0.9, 18)])
def test_holdout_is_the_same_for_all_seeds(fraction, held):
    splits = [opened(numbered(20), batch=1, seed=seed, holdout=fraction) for seed in (0, 1)]
    for images, held_out in splits:
        validation = torch.cat([labels for _, _, labels in held_out.batches()]).tolist()
        assert held_out.split == "held-out" and held_out.size == held == len(validation)
        assert images.size == 20 - held
        assert sorted(validation + images.labels.tolist()) == list(range(20))
        assert set(epoch_labels(images, 0)) == set(range(20)) - set(validation)
    assert torch.equal(splits[0][1].images, splits[1][1].images)


def test_evaluation_without_holdout_uses_the_test_images():
    given = numbered(9)
    images, tested = opened(numbered(20), given)
    assert tested.split == "test" and images.size == 20
    ((_, batch, labels),) = tested.batches()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    expected = (given.images[labels].double() / 255 - mean) / std
    torch.testing.assert_close(batch.double(), expected, atol=1e-5, rtol=0)
    assert sorted(labels.tolist()) == list(range(9))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [0, EVAL_BATCH + 7, 10**6])
def test_processes_evaluate_each_image_once(world, limit):
    size = 2 * EVAL_BATCH + 3
    given = numbered(size, side=2)
    alone = list(evaluation(given).batches(limit))
    shared = sorted(
        (batch for rank in range(world) for batch in evaluation(given, rank, world).batches(limit)),
        key=lambda batch: batch[0],
    )
    for (number, images, labels), (same_number, same_images, same_labels) in zip(alone, shared, strict=True):
        assert number == same_number and torch.equal(images, same_images) and torch.equal(labels, same_labels)
    labels = torch.cat([labels for _, _, labels in shared]).tolist()
    assert len(labels) == len(set(labels)) == (min(limit, size) or size)


def test_part_of_a_sorted_test_set_has_all_classes():
    given = numbered(1000, side=2, classes=10)
    labels = torch.cat([labels for _, _, labels in evaluation(given).batches(100)])
    assert set(labels.tolist()) == set(range(10))


def test_data_follow_configuration_and_network():
    network = torch.nn.Identity()
    network.pretrained_cfg = {"mean": MEAN, "std": STD}
    settings = config(dataset="digits", image_size=8, crop_padding=0, hflip=0, holdout=0.5)
    plan, alone = BatchPlan(0, 64), World(0, 1, 0, CPU)
    images, held = open_training(settings, 10, plan, alone, network), open_evaluation(settings, plan, alone, network)
    assert (images.size, held.size, held.split) == (599, 599, "held-out")
    batch = next(iter(images.batches(range(1)))).images
    darkest = -torch.tensor(MEAN) / torch.tensor(STD)
    assert batch.shape == (64, 3, 8, 8)
    torch.testing.assert_close(batch.amin((0, 2, 3)), darkest)


@pytest.mark.parametrize("choice", [{}, {"holdout": 0.5}, {"imbalance": 0.1}, {"holdout": 0.5, "imbalance": 0.1}])
def test_training_images_to_evaluate_are_those_of_training(choice):
    settings, alone = config(dataset="digits", image_size=8, **choice), World(0, 1, 0, CPU)
    network = torch.nn.Identity()
    network.pretrained_cfg = {"mean": MEAN, "std": STD}
    trained = open_training(settings, 10, BatchPlan(0, 8), alone, network)
    seen = open_evaluation(settings, BatchPlan(0, 8), alone, network, of_training=True)
    assert seen.size == trained.size and torch.equal(seen.labels.sort().values, trained.labels.sort().values)


# Long tails, few labels, other images


def test_long_tail_leaves_holdout_and_evaluation_unchanged():
    given = numbered(400, side=2, classes=4), numbered(40, side=2, classes=4)
    images, tested = opened(*given, imbalance=0.125)
    assert torch.bincount(images.labels).tolist() == images.class_sizes.tolist() == [100, 50, 25, 12]
    assert torch.bincount(tested.labels).tolist() == [10] * 4
    (whole, of_whole), (cut, of_cut) = (opened(*given, holdout=0.2, imbalance=share) for share in (1, 0.125))
    assert torch.equal(of_cut.images, of_whole.images)
    left = torch.bincount(whole.labels)
    most = left.max().item() * torch.tensor([1, 0.5, 0.25, 0.125])
    assert torch.bincount(cut.labels).tolist() == torch.minimum(left, most.long()).tolist()


@pytest.mark.parametrize("setting", [{"imbalance": 0.1}, {"label_fraction": 0.25}])
@pytest.mark.parametrize("labeled_only", [False, True])
def test_all_seeds_have_the_same_images_and_labels(setting, labeled_only):
    given = numbered(80, side=2, classes=4)
    (one, _), (other, _) = (opened(given, seed=seed, labeled_only=labeled_only, **setting) for seed in (0, 1))
    assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_label_fraction_hides_labels_or_drops_images():
    given = numbered(80, side=2, classes=4)
    (all_images, _), (few, _) = (opened(given, label_fraction=0.25, labeled_only=only) for only in (False, True))
    known = all_images.labels >= 0
    assert all_images.size == 80 and torch.equal(all_images.images, training(given).images)
    assert torch.equal(all_images.labels, given.labels.where(known, -1))
    assert torch.bincount(few.labels).tolist() == [5] * 4
    assert torch.equal(few.labels, all_images.labels[known])
    assert torch.equal(few.images, all_images.images[known])
    assert few.steps_per_epoch == 20 // 6


def test_class_sizes_count_all_training_images():
    given = numbered(400, side=2, classes=2)
    assert opened(given, label_fraction=0.05)[0].class_sizes.tolist() == [200, 200]
    images, _ = opened(given, imbalance=0.1, label_fraction=0.05, labeled_only=True)
    assert images.class_sizes.tolist() == [200, 20]


@pytest.mark.parametrize(("batch", "holdout"), [(21, 0.0), (11, 0.5)])
def test_batch_larger_than_the_training_set_is_refused(batch, holdout):
    message = refusal(opened, numbered(20), batch=batch, holdout=holdout)
    assert f"--batch-size {batch}" in message and str(20 - round(20 * holdout)) in message


def test_holdout_with_an_empty_split_is_refused():
    assert "--holdout 0.01" in refusal(opened, numbered(20), holdout=0.01)
