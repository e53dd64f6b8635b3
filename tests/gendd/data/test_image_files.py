"""Image files: which files count, with and without class folders, and the order of classes."""

import hashlib
import io
import os
from collections import Counter

import pytest
import torchvision
from lines import refuses
from PIL import Image
from timm.data.readers.reader_image_folder import ReaderImageFolder

from gendd.data import image_files
from gendd.data.image_files import checksum, class_names, describe, list_class_folders, list_images

PIXELS = io.BytesIO()
Image.new("RGB", (4, 4)).save(PIXELS, "PNG")
PNG = PIXELS.getvalue()
IMAGES = ("b.PNG", "a.gif", "c.avif", "d.jfif", "deep/e.jpg", "f.v2.0001.jpeg", "without", "broken.png")


def write(path, content=PNG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def root(tmp_path):
    """Create train/cat/ and train/dog/, each with IMAGES and many files that are not images."""
    for name in ("cat", "dog"):
        folder = tmp_path / "train" / name
        for image in IMAGES:
            write(folder / image)
        write(folder / "broken.png", b"no image")
        for other in ("._b.PNG", ".DS_Store", ".ipynb_checkpoints/a.gif", "notes.txt", "README", "clip.mpg"):
            write(folder / other, b"something else")
    write(tmp_path / "train" / ".ipynb_checkpoints" / "a.gif")
    return tmp_path


NOT_IMAGES = Counter({"hidden": 7, ".txt": 2, "without an ending": 2, ".mpg": 2})


def texts(files):
    return [os.fsdecode(name) for name in files.names]


def refusal(function, *arguments):
    with refuses() as caught:
        function(*arguments)
    assert len(caught.value.splitlines()) == 1
    return caught.value


def test_folders_with_and_without_classes_list_same_images(root):
    expected = sorted(f"{name}/{image}" for name in ("cat", "dog") for image in IMAGES)
    unlabeled = list_images(root / "train")
    assert texts(unlabeled) == expected and unlabeled.labels is None
    labeled = list_class_folders(root, "train")
    assert texts(labeled) == [f"train/{name}" for name in expected]
    assert labeled.classes == ["cat", "dog"] and labeled.labels.tolist() == [0] * len(IMAGES) + [1] * len(IMAGES)
    assert labeled.passed_over == unlabeled.passed_over == NOT_IMAGES
    assert describe(NOT_IMAGES) == "7 hidden, 2 .txt, 2 without an ending, 2 .mpg"


def test_class_folders_are_listed_as_in_torchvision(tmp_path):
    for name in ("a", "a-b", "B"):
        for number in range(12):
            write(tmp_path / "train" / name / f"{number}.png")
    theirs = torchvision.datasets.ImageFolder(tmp_path / "train")
    ours = list_class_folders(tmp_path, "train")
    paths = [str(tmp_path / name) for name in texts(ours)]
    assert list(zip(paths, ours.labels.tolist(), strict=True)) == theirs.samples
    assert ours.classes == theirs.classes


def test_images_are_listed_in_order_of_their_whole_paths(tmp_path):
    # Bytes before and after "/", names that begin like others, and a name above U+FFFF, which surrogates sort wrongly.
    folders = ("a", "a-b", "a.png", "a/0", "a/b", "a0", "ab", "z", "z/\ue000", "z/\U0001f600", "z/\udce9")
    for folder in folders:
        for name in ("1.png", "-.png", "0.png", "x.png", "~.jpg"):
            write(tmp_path / "train" / folder / name)
    paths = [path for path in (tmp_path / "train").rglob("*") if path.is_file()]
    expected = sorted(os.fsencode(path.relative_to(tmp_path / "train")) for path in paths)
    assert list(list_images(tmp_path / "train").names) == expected and len(expected) == 5 * len(folders)
    labeled = list_class_folders(tmp_path, "train")
    by_class = sorted(expected, key=lambda name: labeled.classes.index(os.fsdecode(name.partition(b"/")[0])))
    assert list(labeled.names) == [b"train/" + name for name in by_class]
    assert labeled.classes == ["a", "a-b", "a.png", "a0", "ab", "z"]


def test_images_outside_class_folders_are_counted_not_used(root):
    write(root / "train" / "loose.png")
    listed = list_class_folders(root, "train")
    assert "train/loose.png" not in texts(listed)
    assert listed.passed_over - NOT_IMAGES == {"outside the class folders": 1}


def test_links_are_followed_without_circles(tmp_path):
    write(tmp_path / "elsewhere" / "x.png")
    for name in ("cat", "dog"):
        write(tmp_path / "train" / name / "a.png")
    cat = tmp_path / "train" / "cat"
    (cat / "file.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (cat / "folder").symlink_to(tmp_path / "elsewhere")
    (cat / "circle").symlink_to(tmp_path / "train")
    (cat / "gone.png").symlink_to(tmp_path / "gone.png")
    (cat / "itself").symlink_to(cat / "itself")
    (tmp_path / "train" / "wolf").symlink_to(tmp_path / "elsewhere")
    expected = ["cat/a.png", "cat/file.png", "cat/folder/x.png", "cat/gone.png", "dog/a.png", "wolf/x.png"]
    assert texts(list_images(tmp_path / "train")) == expected
    labeled = list_class_folders(tmp_path, "train")
    assert [name.removeprefix("train/") for name in texts(labeled)] == expected
    assert labeled.passed_over == {"links to a folder around them": 1, "without an ending": 1}


def test_undecodable_file_names_are_listed(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write(PNG)
    assert list(list_images(tmp_path).names) == [b"caf\xe9.png"]


def test_numbered_classes_sort_by_number_as_in_timm(tmp_path):
    names = [str(number) for number in range(12)]
    for name in names:
        write(tmp_path / "train" / name / "a.png")
    assert class_names(tmp_path / "train") == names
    theirs = ReaderImageFolder(str(tmp_path / "train")).class_to_idx
    assert list_class_folders(tmp_path, "train").labels.tolist() == [theirs[name] for name in names]


def test_named_classes_sort_as_text_as_in_torchvision(tmp_path):
    for name in ("1", "10", "2", "n9", "n10", ".hidden", "__MACOSX"):
        (tmp_path / name).mkdir()
    assert class_names(tmp_path) == ["1", "10", "2", "n10", "n9"]
    (tmp_path / ".hidden").rmdir()
    (tmp_path / "__MACOSX").rmdir()
    assert class_names(tmp_path) == torchvision.datasets.folder.find_classes(tmp_path)[0]
    assert class_names(tmp_path / "none") == []


def test_checksum_of_many_files_is_of_one_text(root, monkeypatch):
    monkeypatch.setattr(image_files, "ASKED", 3)
    files = list_images(root / "train")
    lines = [f"{name} {(root / 'train' / name).stat().st_size}\n" for name in texts(files)]
    assert checksum(files.root, files.names) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_checksum_follows_names_and_sizes(root):
    names = ["cat/a.gif", "cat/absent.png"]
    first = checksum(root / "train", names)
    assert first == checksum(root / "train", names) != checksum(root / "train", names[:1])
    write(root / "train" / "cat" / "a.gif", PNG + b"more")
    assert first != checksum(root / "train", names)


# Refusals


def test_class_without_images_is_refused_with_counts(root):
    write(root / "train" / "wolf" / "a.heic")
    message = refusal(list_class_folders, root, "train")
    assert f"{root}: no image in train/ for the classes wolf" in message and "1 .heic" in message


def test_folder_without_images_is_refused_with_counts(tmp_path):
    write(tmp_path / "a.heic")
    assert "holds no image (passed over: 1 .heic)" in refusal(list_images, tmp_path)
    assert "no such folder" in refusal(list_images, tmp_path / "none")
    assert "holds no class folder" in refusal(list_class_folders, tmp_path, "train")


def test_unreadable_folder_is_named(root, monkeypatch):
    scandir = os.scandir

    def forbidden(folder):
        if folder.rstrip("/").endswith("dog"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    for message in (refusal(list_images, root), refusal(list_class_folders, root, "train")):
        assert f"{root}/train/dog" in message and "Permission denied" in message
