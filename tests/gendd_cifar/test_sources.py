"""Sources of small images: reading them, and errors."""

import hashlib
import pickle
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from faults import STALE, failing
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from small_images import config, refusal

from gendd.core import retry
from gendd.core.errors import PassingFault, with_flags
from gendd.data.decode import SHOWN
from gendd_cifar import sources
from gendd_cifar.check import check_data
from gendd_cifar.sources import read_unlabeled, summarize


def read_source(dataset, data_root, image_size, unlabeled_dir=None):
    """Read both splits."""
    test = sources.read_source(dataset, data_root, "test", image_size)
    if unlabeled_dir:
        train = read_unlabeled(unlabeled_dir, image_size)
    else:
        train = sources.read_source(dataset, data_root, "train", image_size)
    classes = {"num_classes": len(test.class_names), "train_classes": train.class_names}
    return SimpleNamespace(train=train.images, test=test.images, passed_over=train.passed_over, **classes)


def no_network(request, *arguments, **options):
    raise urllib.error.URLError("no route to host")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", no_network)


@pytest.fixture(scope="module")
def digits():
    return read_source("digits", "", 32)


def test_digits_hold_out_a_third_of_each_class(digits):
    assert digits.num_classes == 10
    assert (len(digits.train), len(digits.test)) == (1198, 599)
    assert digits.train.images.shape == (1198, 3, 32, 32) and digits.train.images.dtype == torch.uint8
    of_all = torch.bincount(torch.cat([digits.train.labels, digits.test.labels]))
    assert (torch.bincount(digits.test.labels) - of_all / 3).abs().max() < 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_scikit_learns_in_one_fixed_split(split):
    raw = load_digits()
    split_rows = train_test_split(range(1797), test_size=1 / 3, random_state=0, stratify=raw.target)
    rows = split_rows[("train", "test").index(split)]
    images = torch.from_numpy((raw.images[rows] * 255 / 16).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    source = getattr(read_source("digits", "", 8), split)
    assert torch.equal(source.images, images)
    assert torch.equal(source.labels, torch.from_numpy(raw.target[rows]))


def picture(height, width, mode="RGB", seed=0):
    shape = (height, width) if mode == "L" else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Write three training images and two test images of two classes, 8x8."""
    for number, name in enumerate(("train/cat/a.png", "train/cat/b.png", "train/dog/a.png", "test/cat/a.png")):
        write_image(tmp_path / name, picture(8, 8, seed=number))
    write_image(tmp_path / "test/dog/a.png", picture(8, 8, seed=9))
    return tmp_path


def test_folder_images_are_read_unchanged(folder):
    source = read_source(str(folder), "", 8)
    assert source.num_classes == 2
    assert source.train.labels.tolist() == [0, 0, 1] and source.test.labels.tolist() == [0, 1]
    assert source.train.labels.dtype == torch.int64
    for number in range(3):
        pixels = torch.from_numpy(picture(8, 8, seed=number)).permute(2, 0, 1)
        assert torch.equal(source.train.images[number], pixels)


def test_folder_counts_files_that_are_not_images(folder, capsys):
    cat = folder / "train" / "cat"
    for name in (".DS_Store", "._a.png", "notes.txt"):
        (cat / name).write_bytes(b"no image")
    for hidden in (cat / ".ipynb_checkpoints", folder / "train" / ".ipynb_checkpoints"):
        write_image(hidden / "a.png", picture(8, 8))
    source = read_source(str(folder), "", 8)
    assert (source.num_classes, len(source.train)) == (2, 3)
    assert source.passed_over == {"hidden": 4, ".txt": 1}
    assert summarize(config(dataset=folder)).num_classes == 2
    check_data(config(dataset=folder, image_size=8))
    assert "passed over: 4 hidden, 1 .txt\n" in capsys.readouterr().out


def test_folder_without_classes_lists_images_of_class_folders(folder, tmp_path):
    for ending in ("gif", "avif", "jfif"):
        Image.fromarray(picture(8, 8)).save(folder / "train" / "cat" / f"c.{ending}")
    (folder / "train" / "cat" / "a.png").rename(folder / "train" / "cat" / "a")
    labeled, unlabeled = read_source(str(folder), "", 8), read_source(str(folder), "", 8, str(folder / "train"))
    assert torch.equal(labeled.train.images, unlabeled.train.images) and len(labeled.train) == 6


def test_numbered_classes_sort_by_number(tmp_path):
    for number in range(11):
        for split in ("train", "test"):
            write_image(tmp_path / split / str(number) / "a.png", np.full((8, 8, 3), 20 * number, np.uint8))
    source = read_source(str(tmp_path), "", 8)
    for images in (source.train, source.test):
        assert torch.equal(images.images[:, 0, 0, 0], 20 * images.labels) and images.labels.tolist() == [*range(11)]


def test_16_bit_images_are_read_as_their_8_bit_copies(folder):
    greys = picture(8, 8, mode="L")
    write_image(folder / "test" / "dog" / "a.png", greys.astype(np.uint16) * 257)
    image = read_source(str(folder), "", 8).test.images[1]
    assert torch.equal(image, torch.from_numpy(greys).expand(3, 8, 8))


def test_gray_images_become_three_equal_channels(folder):
    pixels = picture(8, 8, mode="L")
    write_image(folder / "test" / "dog" / "a.png", pixels)
    image = read_source(str(folder), "", 8).test.images[1]
    assert torch.equal(image, torch.from_numpy(pixels).expand(3, 8, 8))


@pytest.mark.parametrize(("height", "width"), [(20, 8), (8, 20)])
def test_rectangular_images_are_cropped_to_the_center(height, width, folder):
    pixels = picture(height, width)
    write_image(folder / "test" / "dog" / "a.png", pixels)
    image = read_source(str(folder), "", 8).test.images[1]
    center = pixels[6:14] if height > width else pixels[:, 6:14]
    assert torch.equal(image, torch.from_numpy(center).permute(2, 0, 1))


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
    """Write a CIFAR-100 of six images per split in torchvision's format, with checksums that are accepted."""
    dataset = torchvision.datasets.CIFAR100
    base = tmp_path / dataset.base_folder
    base.mkdir()
    for split in ("train", "test"):
        entry = {"data": CIFAR_PIXELS[split], "fine_labels": CIFAR_LABELS[split], "coarse_labels": [0] * 6}
        (base / split).write_bytes(pickle.dumps(entry, protocol=4))
        monkeypatch.setattr(dataset, f"{split}_list", [[split, md5(base / split)]])
    (base / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(number) for number in range(100)]}))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(base / "meta")})
    return tmp_path


@pytest.fixture
def archive(cifar100, monkeypatch, tmp_path):
    """Pack the small CIFAR-100 into an archive in an otherwise empty folder."""
    dataset = torchvision.datasets.CIFAR100
    path = tmp_path / "elsewhere" / dataset.filename
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as file:
        file.add(cifar100 / dataset.base_folder, dataset.base_folder)
    monkeypatch.setattr(dataset, "tgz_md5", md5(path))
    return path


def assert_is_the_small_cifar100(source):
    assert source.num_classes == 100
    for split, images in (("train", source.train), ("test", source.test)):
        assert images.labels.tolist() == CIFAR_LABELS[split]
        assert np.array_equal(images.images.numpy(), CIFAR_PIXELS[split].reshape(6, 3, 32, 32))


def test_cifar100_is_read_from_an_unpacked_archive(cifar100):
    assert_is_the_small_cifar100(read_source("cifar100", str(cifar100), 32))


def test_cifar100_is_unpacked_from_a_copied_archive(archive):
    assert summarize(config(dataset="cifar100", data_root=archive.parent)).missing == ()
    assert_is_the_small_cifar100(read_source("cifar100", str(archive.parent), 32))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_without_network_names_the_file_to_fetch(name, tmp_path):
    dataset = getattr(torchvision.datasets, name.upper())
    message = refusal(read_source, name, str(tmp_path), 32)
    for word in (f"--dataset {name}", "no route to host", dataset.url, dataset.tgz_md5, f"--data-root {tmp_path}"):
        assert word in message


def assert_damage_is_told(path, root):
    """Check the error of a run and of a dry run."""
    for message in (
        refusal(read_source, "cifar100", str(root), 32),
        *map(with_flags, summarize(config(dataset="cifar100", data_root=root)).missing),
    ):
        assert f"--dataset cifar100: {path} is damaged: delete it" in message
        assert torchvision.datasets.CIFAR100.url in message and f"--data-root {root}" in message


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_damaged_cifar_file_is_refused(cifar100, name):
    path = cifar100 / "cifar-100-python" / name
    path.write_bytes(path.read_bytes()[:-10])
    assert summarize(config(dataset="cifar100", data_root=cifar100)).missing
    assert_damage_is_told(path, cifar100)


class Attack:
    """A pickled object that creates a file where it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_code_in_a_cifar_file_is_not_run(cifar100, name, monkeypatch, tmp_path):
    """The checksums of torchvision are MD5, so the reader itself must not run code."""
    dataset, file = torchvision.datasets.CIFAR100, cifar100 / "cifar-100-python" / name
    entry = {"data": CIFAR_PIXELS["train"], "fine_labels": Attack(tmp_path / "attacked"), "fine_label_names": []}
    file.write_bytes(pickle.dumps(entry, protocol=4))
    if name == "meta":
        monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(file)})
    else:
        monkeypatch.setattr(dataset, f"{name}_list", [[name, md5(file)]])
    message = refusal(read_source, "cifar100", str(cifar100), 32)
    assert "--dataset cifar100: cannot be unpacked or read (it holds pathlib.Path.touch)" in message
    assert not (tmp_path / "attacked").exists()


def test_damaged_cifar_archive_is_refused(archive):
    archive.write_bytes(archive.read_bytes()[:-10])
    assert summarize(config(dataset="cifar100", data_root=archive.parent)).missing
    assert_damage_is_told(archive, archive.parent)


def test_damaged_cifar_copy_next_to_a_good_one_is_ignored(cifar100, archive):
    unpacked = archive.parent / "cifar-100-python"
    unpacked.mkdir()
    (unpacked / "train").write_bytes(b"an interrupted extraction")
    assert summarize(config(dataset="cifar100", data_root=archive.parent)).missing == ()
    assert_is_the_small_cifar100(read_source("cifar100", str(archive.parent), 32))
    archive.write_bytes(b"an interrupted download")
    assert summarize(config(dataset="cifar100", data_root=archive.parent)).missing == ()
    assert_is_the_small_cifar100(read_source("cifar100", str(archive.parent), 32))


@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("cifar10", 10), ("cifar100", 100)])
def test_class_counts_are_known_before_reading(name, classes, tmp_path):
    summary = summarize(config(dataset=name, data_root=tmp_path))
    assert summary.num_classes == classes
    assert (not summary.missing) == (name == "digits")


def test_summary_of_present_and_missing_folders(folder, cifar100, tmp_path):
    assert summarize(config(dataset=folder)).num_classes == 2
    assert summarize(config(dataset="cifar100", data_root=cifar100)).missing == ()
    absent = summarize(config(dataset=folder / "absent"))
    assert absent.num_classes is None and "no such folder" in absent.missing[0]
    (tmp_path / "bare").mkdir()
    bare = summarize(config(dataset=tmp_path / "bare"))
    assert bare.num_classes is None and "bare: no class folders found; " in bare.missing[0]


@pytest.fixture
def strangers(tmp_path):
    """Write three images without classes, in nested folders."""
    root = tmp_path / "strangers"
    for number, name in enumerate(("b.png", "a/deep/c.JPG", "a.jpeg.png")):
        write_image(root / name, picture(8 + number, 8, seed=20 + number))
    (root / "notes.txt").write_text("not an image, and not taken for one")
    return root


def test_unlabeled_dir_replaces_the_data_sets_images(folder, strangers):
    for path in (folder / "train").rglob("*.png"):
        path.unlink()
    source = read_source(str(folder), "", 8, str(strangers))
    assert source.num_classes == 2 and source.test.labels.tolist() == [0, 1]
    assert source.train.labels.tolist() == [-1] * 3
    first = torch.from_numpy(picture(10, 8, seed=22)[1:9]).permute(2, 0, 1)
    assert torch.equal(source.train.images[0], first), "in order of their paths: a.jpeg.png, a/deep/c.JPG, b.png"


def test_unlabeled_dir_replaces_images_of_cifar_and_digits(cifar100, strangers):
    for dataset, classes, tested in (("cifar100", 100, 6), ("digits", 10, 599)):
        source = read_source(dataset, str(cifar100), 32, str(strangers))
        assert (len(source.train), len(source.test), source.num_classes) == (3, tested, classes)
        assert source.train_classes == ()


def test_summary_names_settings_and_missing_folders(folder, strangers):
    told = summarize(config(dataset=folder, unlabeled_dir=strangers, imbalance=0.02))
    assert told.missing == () and told.num_classes == 2
    assert f"trained on the images of {strangers}" in told.details and "the last class 0.02 times" in told.details
    (absent,) = map(with_flags, summarize(config(dataset=folder, unlabeled_dir=strangers / "none")).missing)
    assert absent == f"--unlabeled-dir {strangers}/none: no such folder; name a folder of images"


def test_check_data_counts_held_out_images_apart(capsys):
    settings = config(dataset="digits", image_size=8, imbalance=0.1, holdout=0.2)
    check_data(settings)
    images = sources.read_source("digits", "data", "train", 8).images
    kept, held = images.hold_out(0.2)
    kept = kept.long_tailed(0.1)
    lines = capsys.readouterr().out.splitlines()
    assert f"  train  {len(kept)} images, " in lines[1] and f"  held-out {len(held)} images" in lines[-1]


def test_check_data_with_holdout_needs_no_test_images(folder, capsys):
    shutil.rmtree(folder / "test")
    check_data(config(dataset=folder, image_size=8, holdout=0.3))
    assert "  held-out 1 images" in capsys.readouterr().out


def test_check_data_counts_the_training_images(capsys, digits, strangers):
    check_data(config(dataset="digits", image_size=8, imbalance=0.1, label_fraction=0.1))
    output = capsys.readouterr().out
    sizes = torch.bincount(digits.train.labels).tolist()
    kept = [min(size, int(max(sizes) * 0.1 ** (number / 9))) for number, size in enumerate(sizes)]
    known = [max(round(size / 10), 1) for size in kept]
    for name, counts in (("train ", kept), ("labels", known)):
        assert f"{name} {sum(counts)} images, {min(counts)} to {max(counts)} per class\n" in output
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
        ({"unlabeled_dir": "there"}, ["--unlabeled-dir there", "train without labels: --unlabeled"]),
    ],
)
def test_invalid_data_settings_are_refused(flags, words):
    message = refusal(config(**flags).check)
    assert all(word in message for word in words)


@pytest.mark.parametrize(("flag", "value"), [("imbalance", 0.1), ("holdout", 0.5)])
def test_unlabeled_dir_refuses_imbalance_and_holdout(flag, value):
    settings = config(unlabeled_dir="there", **{flag: value}).changed(unlabeled=True)
    message = refusal(settings.data.check_training_images)
    assert f"--{flag} {value}" in message and "--unlabeled-dir there" in message


def test_empty_or_broken_unlabeled_folder_is_refused(strangers, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    message = refusal(read_source, "digits", "", 8, str(empty))
    assert message == f"--unlabeled-dir {empty}: holds no image; name a folder of images"
    (strangers / "broken.png").write_bytes(b"notes")
    message = refusal(read_source, "digits", "", 8, str(strangers))
    assert message.startswith("--unlabeled-dir") and str(strangers / "broken.png") in message


@pytest.mark.parametrize(("name", "nearest"), [("cifar-100", "cifar100"), ("CIFAR10", "cifar10"), ("digit", "digits")])
def test_unknown_dataset_gives_the_nearest(name, nearest):
    message = refusal(read_source, name, "", 8)
    names, _, remedy = message.partition("nearest: ")[2].partition("; ")
    assert message.startswith(f"--dataset {name}") and nearest in names.split(", ") and "train/<class>/" in remedy
    assert [with_flags(line) for line in summarize(config(dataset=name)).missing] == [message]


def test_missing_folder_is_refused(tmp_path):
    message = refusal(read_source, str(tmp_path / "none"), "", 8)
    assert f"--dataset {tmp_path}/none" in message and "train/<class>/" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split_is_refused(split, folder):
    (folder / split).rename(folder / "other")
    message = refusal(read_source, str(folder), "", 8)
    assert f"--dataset {folder}" in message and f"{split}/<class>/<image>" in message


@pytest.mark.parametrize("empty", ["train", "train/cat"])
def test_empty_split_or_class_is_refused(empty, folder):
    for path in (folder / empty).rglob("*.png"):
        path.unlink()
    message = refusal(read_source, str(folder), "", 8)
    assert "cat" in message and "train/<class>/<image>" in message


def test_split_without_classes_is_refused(folder):
    (folder / "test").rename(folder / "other")
    (folder / "test").mkdir()
    assert "test/<class>/<image>" in refusal(read_source, str(folder), "", 8)


@pytest.mark.parametrize("content", [b"", b"notes", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_broken_image_file_is_named(content, folder):
    path = folder / "train" / "dog" / "b.png"
    path.write_bytes(content)
    assert str(path) in refusal(read_source, str(folder), "", 8)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_images_of_unknown_range_are_named_with_their_mode(kind, folder):
    path = write_image(folder / "train" / "dog" / "b.tiff", picture(8, 8, mode="L").astype(kind))
    message = refusal(read_source, str(folder), "", 8)
    assert f"{path}: mode {'I' if kind == np.int32 else 'F'}, " in message


def test_check_data_names_broken_files_up_to_a_limit(folder, strangers, capsys):
    broken = [folder / "test" / "cat" / f"{number}.png" for number in range(2)] + [strangers / "broken.png"]
    for path in broken:
        path.write_bytes(b"no image")
    settings = config(dataset=folder, image_size=8, unlabeled_dir=strangers)
    assert "3 images are broken; remove or replace them" in refusal(check_data, settings)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(any(str(path) in line for line in lines) for path in broken)
    message = refusal(read_source, str(folder), "", 8)
    assert str(broken[0]) in message and "1 more; list them with --check-data" in message
    for number in range(SHOWN):
        (folder / "test" / "dog" / f"{number}.png").write_bytes(b"no image")
    assert f"{SHOWN + 3} images are broken (the first {SHOWN} are listed)" in refusal(check_data, settings)
    assert len(capsys.readouterr().out.splitlines()) == SHOWN


def test_temporarily_unreadable_files_are_read_again(folder, monkeypatch):
    whole = read_source(str(folder), "", 8)
    monkeypatch.setattr(retry, "PAUSES", (0, 0))
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, [STALE, STALE]))
    again = read_source(str(folder), "", 8)
    assert torch.equal(again.train.images, whole.train.images) and torch.equal(again.test.images, whole.test.images)
    monkeypatch.setattr(Path, "read_bytes", failing(Path.read_bytes, [STALE] * 1000))
    with pytest.raises(PassingFault, match="Stale file handle.*tried 3 times"):
        read_source(str(folder), "", 8)


def test_archive_from_a_busy_server_is_retried(tmp_path, monkeypatch):
    asked, busy = [], urllib.error.HTTPError("https://host/cifar", 503, "busy", None, None)

    def answer(*_, **options):
        asked.append(options)
        raise busy

    monkeypatch.setattr(retry, "PAUSES", (0, 0))
    monkeypatch.setattr(urllib.request, "urlopen", answer)
    with pytest.raises(PassingFault, match="data set cifar10 cannot be read .HTTP Error 503: busy.*tried 3 times"):
        read_source("cifar10", str(tmp_path), 8)
    assert len(asked) >= 3


def test_truncated_png_is_named_for_any_cut(folder):
    # The image has two chunks of pixels, because a cut between chunks raises another error.
    path = write_image(folder / "train" / "dog" / "b.png", picture(160, 160))
    whole = path.read_bytes()
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    for end in (10, 30, 50, second // 2, second - 4, second, second + 2, second + 4, second + 40):
        path.write_bytes(whole[:end])
        assert str(path) in refusal(read_source, str(folder), "", 8)


def test_image_of_huge_size_is_named(folder):
    path = folder / "train" / "dog" / "b.png"
    write_image(path, picture(8, 8))
    header = bytearray(path.read_bytes())
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(header))
    assert str(path) in refusal(read_source, str(folder), "", 8)


def test_classes_missing_in_one_split_are_named(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    message = refusal(check_data, config(dataset=folder, image_size=8))
    assert "dog" in message and "wolf" in message and "cat" not in message.partition("only in one of them")[2]
    write_image(folder / "train" / "wolf" / "a.png", picture(8, 8))
    message = refusal(check_data, config(dataset=folder, image_size=8))
    assert "3 classes to train on, 2 to evaluate on" in message and "dog" in message
