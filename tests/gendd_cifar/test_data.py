"""Small images: sources, augmentation, batches, and data that is refused."""

import hashlib
import pickle
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from gendd.config import parse
from gendd.distributed import World
from gendd.errors import UserError
from gendd.randomness import BatchPlan, generator
from gendd_cifar.config import CifarTrainConfig
from gendd_cifar.data import EVAL_BATCH, ImageData, open_data
from gendd_cifar.sources import Images, Source, check_data, read_source, summarize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def no_network(request, *arguments, **options):
    raise urllib.error.URLError("no route to host")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", no_network)


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message.startswith("--") and len(message.splitlines()) == 1
    return message


def config(**settings):
    arguments = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return parse(CifarTrainConfig, "gendd_cifar.train", ["--student", "resnet8", *arguments])


# Sources


@pytest.fixture(scope="module")
def digits():
    return read_source("digits", "", 32)


def rows(images, labels):
    """Images with their labels, as comparable bytes."""
    return sorted(image.numpy().tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


def test_digits_are_all_there_a_third_of_each_class_held_out(digits):
    assert digits.num_classes == 10
    assert (len(digits.train), len(digits.test)) == (1198, 599)
    assert digits.train.images.shape == (1198, 3, 32, 32) and digits.train.images.dtype == torch.uint8
    of_all = torch.bincount(torch.cat([digits.train.labels, digits.test.labels]))
    assert (torch.bincount(digits.test.labels) - of_all / 3).abs().max() < 1


def test_digits_training_and_test_images_make_up_scikit_learns():
    source = read_source("digits", "", 8)
    raw = load_digits()
    expected = torch.from_numpy((raw.images * 255 / 16).astype(np.uint8))[:, None].repeat(1, 3, 1, 1)
    train, test = rows(source.train.images, source.train.labels), rows(source.test.images, source.test.labels)
    assert sorted(train + test) == rows(expected, torch.from_numpy(raw.target))
    assert not set(train) & set(test)


def test_digits_split_is_fixed(digits):
    np.random.seed(99)
    torch.manual_seed(99)
    again = read_source("digits", "", 32)
    assert torch.equal(again.test.images, digits.test.images) and torch.equal(again.test.labels, digits.test.labels)
    assert torch.equal(again.train.labels, digits.train.labels)


def picture(height, width, mode="RGB", seed=0):
    shape = (height, width) if mode == "L" else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three training images and two test images of two classes, 8x8."""
    for number, name in enumerate(("train/cat/a.png", "train/cat/b.png", "train/dog/a.png", "test/cat/a.png")):
        write_image(tmp_path / name, picture(8, 8, seed=number))
    write_image(tmp_path / "test/dog/a.png", picture(8, 8, seed=9))
    return tmp_path


def test_a_folder_of_images_is_read_as_it_is(folder):
    source = read_source(str(folder), "", 8)
    assert source.num_classes == 2
    assert source.train.labels.tolist() == [0, 0, 1] and source.test.labels.tolist() == [0, 1]
    assert source.train.labels.dtype == torch.int64
    for number in range(3):
        pixels = torch.from_numpy(picture(8, 8, seed=number)).permute(2, 0, 1)
        assert torch.equal(source.train.images[number], pixels)


def test_a_folder_passes_over_hidden_files(folder):
    (folder / "train" / "cat" / ".DS_Store").write_bytes(b"no image")
    assert len(read_source(str(folder), "", 8).train) == 3


def test_grey_images_become_three_equal_channels(folder):
    pixels = picture(8, 8, mode="L")
    write_image(folder / "test" / "dog" / "a.png", pixels)
    image = read_source(str(folder), "", 8).test.images[1]
    assert torch.equal(image, torch.from_numpy(pixels).expand(3, 8, 8))


@pytest.mark.parametrize(("height", "width"), [(20, 8), (8, 20)])
def test_odd_shapes_are_cut_to_their_centre_square(height, width, folder):
    pixels = picture(height, width)
    write_image(folder / "test" / "dog" / "a.png", pixels)
    image = read_source(str(folder), "", 8).test.images[1]
    centre = pixels[6:14] if height > width else pixels[:, 6:14]
    assert torch.equal(image, torch.from_numpy(centre).permute(2, 0, 1))


def test_other_sizes_are_resized(folder):
    halves = np.zeros((16, 24, 3), np.uint8)
    halves[:, 12:] = 240
    write_image(folder / "test" / "dog" / "a.png", halves)
    image = read_source(str(folder), "", 8).test.images[1]
    assert image.shape == (3, 8, 8)
    assert (image[..., :2] == 0).all() and (image[..., 6:] == 240).all()


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


CIFAR_PIXELS = {split: picture(6, 1024, seed=seed).reshape(6, 3072) for seed, split in enumerate(("train", "test"))}
CIFAR_LABELS = {"train": [0, 99, 5, 5, 42, 7], "test": [1, 2, 3, 98, 0, 50]}


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """A CIFAR-100 of six images a split in torchvision's format, accepted as if it were the whole."""
    dataset = torchvision.datasets.CIFAR100
    base = tmp_path / dataset.base_folder
    base.mkdir()
    for split in ("train", "test"):
        entry = {"data": CIFAR_PIXELS[split], "fine_labels": CIFAR_LABELS[split], "coarse_labels": [0] * 6}
        (base / split).write_bytes(pickle.dumps(entry))
        monkeypatch.setattr(dataset, f"{split}_list", [[split, md5(base / split)]])
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(number) for number in range(100)]}))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(base / "meta")})
    return tmp_path


def assert_is_the_small_cifar100(source):
    assert source.num_classes == 100
    for split, data in (("train", source.train), ("test", source.test)):
        assert data.labels.tolist() == CIFAR_LABELS[split]
        assert np.array_equal(data.images.numpy(), CIFAR_PIXELS[split].reshape(6, 3, 32, 32))


def test_cifar100_is_read_from_an_unpacked_archive(cifar100):
    assert_is_the_small_cifar100(read_source("cifar100", str(cifar100), 32))


def test_cifar100_is_unpacked_from_an_archive_put_there(cifar100, monkeypatch, tmp_path):
    dataset = torchvision.datasets.CIFAR100
    archive = tmp_path / "elsewhere" / dataset.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as file:
        file.add(cifar100 / dataset.base_folder, dataset.base_folder)
    monkeypatch.setattr(dataset, "tgz_md5", md5(archive))
    assert summarize(config(dataset="cifar100", data_root=archive.parent)).missing == ()
    assert_is_the_small_cifar100(read_source("cifar100", str(archive.parent), 32))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_files_and_network_says_what_to_fetch_and_where_to_put_it(name, tmp_path):
    dataset = getattr(torchvision.datasets, name.upper())
    message = refusal(read_source, name, str(tmp_path), 32)
    for word in (f"--dataset {name}", "no route to host", dataset.url, dataset.tgz_md5, f"--data-root {tmp_path}"):
        assert word in message


def test_a_damaged_cifar_file_is_not_taken_for_the_data_set(cifar100):
    path = cifar100 / "cifar-100-python" / "test"
    path.write_bytes(path.read_bytes()[:-10])
    assert "--dataset cifar100" in refusal(read_source, "cifar100", str(cifar100), 32)


@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("cifar10", 10), ("cifar100", 100)])
def test_class_counts_are_known_before_reading(name, classes, tmp_path):
    summary = summarize(config(dataset=name, data_root=tmp_path))
    assert summary.num_classes == classes
    assert (not summary.missing) == (name == "digits")


def test_summary_of_a_folder_and_of_one_that_is_not_there(folder, cifar100):
    assert summarize(config(dataset=folder)).num_classes == 2
    assert summarize(config(dataset="cifar100", data_root=cifar100)).missing == ()
    absent = summarize(config(dataset=folder / "absent"))
    assert absent.num_classes is None and "no such folder" in absent.missing[0]


# Batches


def numbered(count, side=6, classes=None):
    """Random images whose labels are their places, or sorted classes."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count)
    return Images(images, labels if classes is None else labels * classes // count)


def data(train=20, test=9, batch=6, seed=0, rank=0, world=1, accumulate=1, source=None, **options):
    source = source or Source(numbered(train), numbered(test), train)
    return ImageData(source, BatchPlan(seed, batch, rank, world, accumulate), torch.device("cpu"), MEAN, STD, **options)


def epoch_labels(images, epoch):
    steps = images.steps_per_epoch
    batches = images.train_batches(range(epoch * steps, (epoch + 1) * steps))
    return torch.cat([labels for _, _, labels in batches]).tolist()


def augmented(image, top, left, flip, padding):
    """An image (3, S, S) uint8, augmented a pixel at a time."""
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
def test_augmentation_equals_a_slow_one(crop_padding, hflip):
    source = Source(numbered(20), numbered(3), 20)
    for random, images, labels in data(source=source, crop_padding=crop_padding, hflip=hflip).train_batches(range(7)):
        draws = random.generator("augmentation", "cpu")
        tops, lefts = torch.randint(2 * crop_padding + 1, (2, 6), generator=draws)
        flips = torch.rand(6, generator=draws) < hflip
        assert images.dtype == torch.float32
        for image, label, top, left, flip in zip(images, labels, tops, lefts, flips, strict=True):
            expected = augmented(source.train.images[label].numpy(), int(top), int(left), bool(flip), crop_padding)
            np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)


def test_cached_views_equal_slow_ones_and_the_epochs_show_them_in_turn():
    source = Source(numbered(20), numbered(3), 20)
    images, seen = data(source=source, seed=5, cached_views=2), {}
    for random, batch, labels in images.train_batches(range(4 * images.steps_per_epoch)):
        view, indices = images.views(random)
        assert view == random.step // images.steps_per_epoch % 2 and torch.equal(indices, labels)
        draws = generator("cpu", "cached view", view)
        tops, lefts = torch.randint(9, (2, 20), generator=draws)
        flips = torch.rand(20, generator=draws) < 0.5
        for image, label in zip(batch, labels, strict=True):
            where = int(tops[label]), int(lefts[label]), bool(flips[label])
            expected = augmented(source.train.images[label].numpy(), *where, 4)
            np.testing.assert_allclose(image.numpy(), expected, atol=1e-5)
            seen.setdefault((view, int(label)), []).append(image)
    twice = [pair for pair in seen.values() if len(pair) == 2]
    assert len(twice) > 20 and all(torch.equal(*pair) for pair in twice)
    for (view, label), (image, *_) in seen.items():
        (again,) = images.view_batches([(view, range(label, label + 1))])
        assert torch.equal(again[0], image)


def test_crops_vary_over_their_whole_range():
    # A white image shows its crop as black rows and columns: none, or up to four at one side.
    source = Source(Images(torch.full((6, 3, 6, 6), 255, dtype=torch.uint8), torch.arange(6)), numbered(2), 6)
    seen = set()
    for _, images, _ in data(source=source).train_batches(range(200)):
        white = images[:, 0] > 0
        seen |= set(zip(white.any(2).sum(1).tolist(), white.any(1).sum(1).tolist(), strict=True))
    assert seen == {(height, width) for height in range(2, 7) for width in range(2, 7)}


def test_half_of_the_images_are_flipped():
    half = torch.zeros(6, 3, 6, 6, dtype=torch.uint8)
    half[..., :3] = 255
    half_white = data(source=Source(Images(half, torch.arange(6)), numbered(2), 6), crop_padding=0)
    flipped = torch.cat([images[:, 0, 0, 0] < 0 for _, images, _ in half_white.train_batches(range(200))])
    assert len(flipped) == 1200 and 0.45 < flipped.float().mean() < 0.55


def test_images_are_normalised_exactly_where_nothing_is_drawn():
    source = Source(numbered(20), numbered(9), 20)
    images = data(source=source, crop_padding=0, hflip=0)
    expected = (source.train.images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for _, batch, labels in images.train_batches(range(3)):
        torch.testing.assert_close(batch.double(), expected[labels], atol=1e-5, rtol=0)
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_takes_each_image_at_most_once_and_all_but_the_rest_of_a_batch():
    images = data(train=20, batch=6)
    assert images.steps_per_epoch == 3
    for epoch in range(4):
        assert len(set(epoch_labels(images, epoch))) == 18
    whole = data(train=20, batch=5)
    assert sorted(epoch_labels(whole, 1)) == list(range(20))


def test_epochs_and_seeds_differ_and_the_same_seed_repeats():
    images = data(seed=3)
    first, second = epoch_labels(images, 0), epoch_labels(images, 1)
    assert first != second
    assert epoch_labels(images, 0) == first == epoch_labels(data(seed=3), 0)
    assert epoch_labels(data(seed=4), 0) != first


def test_a_resumed_run_gets_the_batches_of_its_steps():
    going, resumed = data(seed=1), data(seed=1)
    expected = list(going.train_batches(range(9)))[5:]
    for (_, images, labels), (_, again, same) in zip(expected, resumed.train_batches(range(5, 9)), strict=True):
        assert torch.equal(images, again) and torch.equal(labels, same)


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2), (3, 2)])
def test_the_parts_of_all_processes_are_together_the_batch_of_one(world, accumulate):
    whole = list(data(train=40, batch=12).train_batches(range(4)))
    parts = [
        list(data(train=40, batch=12, rank=rank, world=world, accumulate=accumulate).train_batches(range(4)))
        for rank in range(world)
    ]
    for step, (_, images, labels) in enumerate(whole):
        filled = torch.zeros(12, dtype=torch.int)
        for random, some_images, some_labels in (part for one in parts for part in one if part[0].step == step):
            assert torch.equal(some_images, images[random.rows]) and torch.equal(some_labels, labels[random.rows])
            filled[random.rows] += 1
        assert (filled == 1).all()


@pytest.mark.parametrize(("fraction", "held"), [(0.1, 2), (0.25, 5), (0.9, 18)])
def test_a_holdout_is_split_off_the_training_images_alike_for_all_seeds(fraction, held):
    splits = [data(train=20, batch=1, seed=seed, holdout=fraction) for seed in (0, 1)]
    for images in splits:
        validation = torch.cat([labels for _, _, labels in images.eval_batches()]).tolist()
        assert images.eval_split == "validation" and images.eval_size == held == len(validation)
        assert images.train_size == 20 - held
        assert sorted(validation + images.train_labels.tolist()) == list(range(20))
        assert set(epoch_labels(images, 0)) == set(range(20)) - set(validation)
    assert torch.equal(splits[0].eval_images, splits[1].eval_images)


def test_without_a_holdout_the_test_images_are_evaluated_as_they_are():
    source = Source(numbered(20), numbered(9), 20)
    images = data(source=source)
    assert images.eval_split == "test" and images.train_size == 20
    ((_, batch, labels),) = images.eval_batches()
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    expected = (source.test.images[labels].double() / 255 - mean) / std
    torch.testing.assert_close(batch.double(), expected, atol=1e-5, rtol=0)
    assert sorted(labels.tolist()) == list(range(9))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [0, EVAL_BATCH + 7, 10**6])
def test_an_evaluation_takes_each_image_once_over_all_processes(world, limit):
    size = 2 * EVAL_BATCH + 3
    source = Source(numbered(6, side=2), numbered(size, side=2), 6)
    alone = list(data(source=source).eval_batches(limit))
    shared = sorted(
        (batch for rank in range(world) for batch in data(source=source, rank=rank, world=world).eval_batches(limit)),
        key=lambda batch: batch[0],
    )
    for (number, images, labels), (same_number, same_images, same_labels) in zip(alone, shared, strict=True):
        assert number == same_number and torch.equal(images, same_images) and torch.equal(labels, same_labels)
    labels = torch.cat([labels for _, _, labels in shared]).tolist()
    assert len(labels) == len(set(labels)) == (min(limit, size) or size)


def test_a_part_of_a_class_sorted_set_holds_all_classes():
    source = Source(numbered(6, side=2), numbered(1000, side=2, classes=10), 10)
    labels = torch.cat([labels for _, _, labels in data(source=source).eval_batches(100)])
    assert set(labels.tolist()) == set(range(10))


def test_open_data_follows_configuration_and_network():
    network = torch.nn.Identity()
    network.pretrained_cfg = {"mean": MEAN, "std": STD}
    settings = config(dataset="digits", image_size=8, crop_padding=0, hflip=0, holdout=0.5)
    images = open_data(settings, BatchPlan(0, 64), World(0, 1, 0, torch.device("cpu")), network)
    assert (images.train_size, images.eval_size, images.eval_split) == (599, 599, "validation")
    _, batch, _ = next(iter(images.train_batches(range(1))))
    darkest = -torch.tensor(MEAN) / torch.tensor(STD)
    assert batch.shape == (64, 3, 8, 8)
    torch.testing.assert_close(batch.amin((0, 2, 3)), darkest)


# Long tails, few labels, other images


def test_a_long_tail_is_cut_from_what_a_holdout_leaves_and_evaluation_stays_as_it_is():
    source = Source(numbered(400, side=2, classes=4), numbered(40, side=2, classes=4), 4)
    images = data(source=source, imbalance=0.125)
    assert torch.bincount(images.train_labels).tolist() == [100, 50, 25, 12]
    assert torch.bincount(images.eval_labels).tolist() == [10] * 4
    assert {name: members.nonzero()[:, 0].tolist() for name, members in images.class_groups.items()} == {
        "medium": [0, 1, 2], "few": [3],
    }  # fmt: skip
    whole, cut = (data(source=source, holdout=0.2, imbalance=imbalance) for imbalance in (1, 0.125))
    assert torch.equal(cut.eval_images, whole.eval_images)
    left = torch.bincount(whole.train_labels)
    most = left.max().item() * torch.tensor([1, 0.5, 0.25, 0.125])
    assert torch.bincount(cut.train_labels).tolist() == torch.minimum(left, most.long()).tolist()


@pytest.mark.parametrize("setting", [{"imbalance": 0.1}, {"label_fraction": 0.25}])
@pytest.mark.parametrize("labeled_only", [False, True])
def test_each_seed_has_the_same_images_and_labels(setting, labeled_only):
    source = Source(numbered(80, side=2, classes=4), numbered(8, side=2, classes=4), 4)
    one, other = (data(source=source, seed=seed, labeled_only=labeled_only, **setting) for seed in (0, 1))
    assert torch.equal(one.train_images, other.train_images) and torch.equal(one.train_labels, other.train_labels)


def test_few_labels_hide_the_others_or_leave_their_images_out():
    source = Source(numbered(80, side=2, classes=4), numbered(8, side=2, classes=4), 4)
    all_images, few = (data(source=source, label_fraction=0.25, labeled_only=only) for only in (False, True))
    known = all_images.train_labels >= 0
    assert all_images.train_size == 80 and torch.equal(all_images.train_images, data(source=source).train_images)
    assert torch.equal(all_images.train_labels, source.train.labels.where(known, -1))
    assert torch.bincount(few.train_labels).tolist() == [5] * 4
    assert torch.equal(few.train_labels, all_images.train_labels[known])
    assert torch.equal(few.train_images, all_images.train_images[known])
    assert few.steps_per_epoch == 20 // 6


def test_groups_of_classes_are_those_of_all_training_images():
    source = Source(numbered(400, side=2, classes=2), numbered(8, side=2, classes=2), 2)
    assert data(source=source, label_fraction=0.05).class_groups == {}
    groups = data(source=source, imbalance=0.1, label_fraction=0.05, labeled_only=True).class_groups
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [True, False], "medium": [False, True],
    }  # fmt: skip


@pytest.fixture
def strangers(tmp_path):
    """A folder of three images without classes, in folders of its own."""
    root = tmp_path / "strangers"
    for number, name in enumerate(("b.png", "a/deep/c.JPG", "a.jpeg.png")):
        write_image(root / name, picture(8 + number, 8, seed=20 + number))
    (root / "notes.txt").write_text("not an image, and not taken for one")
    return root


def test_other_images_are_trained_on_and_nothing_of_the_data_sets_own(folder, strangers):
    for path in (folder / "train").rglob("*.png"):
        path.unlink()
    source = read_source(str(folder), "", 8, str(strangers))
    assert source.num_classes == 2 and source.test.labels.tolist() == [0, 1]
    assert source.train.labels.tolist() == [-1] * 3
    first = torch.from_numpy(picture(10, 8, seed=22)[1:9]).permute(2, 0, 1)
    assert torch.equal(source.train.images[0], first), "in order of their paths: a.jpeg.png, a/deep/c.JPG, b.png"


def test_other_images_stand_in_for_cifars_and_the_digits_too(cifar100, strangers):
    for dataset, classes, tested in (("cifar100", 100, 6), ("digits", 10, 599)):
        source = read_source(dataset, str(cifar100), 32, str(strangers))
        assert (len(source.train), len(source.test), source.num_classes) == (3, tested, classes)
        assert data(source=source, batch=3).class_groups == {}


def test_a_summary_tells_the_setting_and_what_is_missing_of_it(folder, strangers):
    told = summarize(config(dataset=folder, unlabeled_dir=strangers, imbalance=0.02))
    assert told.missing == () and told.num_classes == 2
    assert f"trained on the images of {strangers}" in told.details and "the last class 0.02 times" in told.details
    (absent,) = summarize(config(dataset=folder, unlabeled_dir=strangers / "none")).missing
    assert absent == f"--unlabeled-dir {strangers}/none: no such folder; name a folder of images"


def test_checking_the_data_counts_what_is_trained_on(capsys, digits, strangers):
    check_data(config(dataset="digits", image_size=8, imbalance=0.1, label_fraction=0.1))
    output = capsys.readouterr().out
    sizes = torch.bincount(digits.train.labels).tolist()
    kept = [min(size, int(max(sizes) * 0.1 ** (number / 9))) for number, size in enumerate(sizes)]
    known = [max(round(size / 10), 1) for size in kept]
    for name, counts in (("train ", kept), ("labels", known)):
        assert f"{name} {sum(counts)} images, {min(counts)} to {max(counts)} a class\n" in output
    groups = sum(size > 100 for size in kept), sum(20 <= size <= 100 for size in kept), sum(size < 20 for size in kept)
    assert "by their number of images: {} of many, {} of medium, {} of few".format(*groups) in output
    check_data(config(dataset="digits", image_size=8, unlabeled_dir=strangers))
    output = capsys.readouterr().out
    assert f"train  3 images of {strangers}, without labels" in output and "test   599 images" in output


# Refusals


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"imbalance": "0"}, ["--imbalance 0.0", "above 0"]),
        ({"imbalance": "100"}, ["--imbalance 100.0", "at most 1"]),
        ({"imbalance": "nan"}, ["--imbalance nan"]),
        ({"unlabeled_dir": "there"}, ["--unlabeled-dir there", "train without them: --unlabeled"]),
    ],
)
def test_settings_that_cannot_work_are_refused(flags, words):
    message = refusal(config(**flags).check_training_images)
    assert all(word in message for word in words)


@pytest.mark.parametrize(("flag", "value"), [("imbalance", 0.1), ("holdout", 0.5)])
def test_what_chooses_among_replaced_images_is_refused(flag, value):
    settings = replace(config(unlabeled_dir="there", **{flag: value}), unlabeled=True)
    message = refusal(settings.check_training_images)
    assert f"--{flag} {value}" in message and "--unlabeled-dir there" in message


def test_an_unlabeled_folder_without_images_or_with_a_broken_one_is_refused(strangers, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    message = refusal(read_source, "digits", "", 8, str(empty))
    assert message == f"--unlabeled-dir {empty}: holds no image; name a folder of images"
    (strangers / "broken.png").write_bytes(b"notes")
    message = refusal(read_source, "digits", "", 8, str(strangers))
    assert message.startswith("--unlabeled-dir") and str(strangers / "broken.png") in message


@pytest.mark.parametrize(("name", "nearest"), [("cifar-100", "cifar100"), ("CIFAR10", "cifar10"), ("digit", "digits")])
def test_an_unknown_name_brings_the_nearest(name, nearest):
    message = refusal(read_source, name, "", 8)
    assert message.startswith(f"--dataset {name}") and nearest in message.partition("nearest: ")[2].split(", ")
    assert summarize(config(dataset=name)).missing == (message,)


def test_a_missing_folder_is_refused(tmp_path):
    message = refusal(read_source, str(tmp_path / "none"), "", 8)
    assert f"--dataset {tmp_path}/none" in message and "train/<class>/" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_refused(split, folder):
    (folder / split).rename(folder / "other")
    message = refusal(read_source, str(folder), "", 8)
    assert f"--dataset {folder}" in message and f"{split}/<class>/<image>" in message


@pytest.mark.parametrize("empty", ["train", "train/cat"])
def test_an_empty_split_or_class_is_refused(empty, folder):
    for path in (folder / empty).rglob("*.png"):
        path.unlink()
    message = refusal(read_source, str(folder), "", 8)
    assert "cat" in message and "train/<class>/<image>" in message


def test_a_split_without_classes_is_refused(folder):
    (folder / "test").rename(folder / "other")
    (folder / "test").mkdir()
    assert "test/<class>/<image>" in refusal(read_source, str(folder), "", 8)


@pytest.mark.parametrize("content", [b"", b"notes", b"\x89PNG\r\n\x1a\n" + bytes(40)])
@pytest.mark.parametrize("name", ["notes.txt", "b.png"])
def test_a_file_that_is_no_image_is_named(name, content, folder):
    path = folder / "train" / "dog" / name
    path.write_bytes(content)
    assert str(path) in refusal(read_source, str(folder), "", 8)


def test_a_png_truncated_anywhere_is_named(folder):
    # Large enough for two chunks of pixels: a cut between them has its own error.
    path = write_image(folder / "train" / "dog" / "b.png", picture(160, 160))
    whole = path.read_bytes()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    for end in (10, 30, 50, second // 2, second - 4, second, second + 2, second + 4, second + 40):
        path.write_bytes(whole[:end])
        assert str(path) in refusal(read_source, str(folder), "", 8)


def test_an_image_of_absurd_size_is_named(folder):
    path = folder / "train" / "dog" / "b.png"
    write_image(path, picture(8, 8))
    header = bytearray(path.read_bytes())
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(header))
    assert str(path) in refusal(read_source, str(folder), "", 8)


def test_classes_that_differ_between_training_and_test_are_named(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    message = refusal(read_source, str(folder), "", 8)
    assert "dog" in message and "wolf" in message and "cat" not in message.partition("only in one of them")[2]
    write_image(folder / "train" / "wolf" / "a.png", picture(8, 8))
    message = refusal(read_source, str(folder), "", 8)
    assert "train/ has 3 classes, test/ 2" in message and "dog" in message


@pytest.mark.parametrize(("batch", "holdout"), [(21, 0.0), (11, 0.5)])
def test_a_batch_larger_than_the_training_set_is_refused_with_both_sizes(batch, holdout):
    message = refusal(data, train=20, batch=batch, holdout=holdout)
    assert f"--batch-size {batch}" in message and str(20 - round(20 * holdout)) in message


def test_a_holdout_that_leaves_an_empty_split_is_refused():
    assert "--holdout 0.01" in refusal(data, train=20, holdout=0.01)
