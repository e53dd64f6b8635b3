"""Folders and lists: the same batches for any number of processes and workers, and errors."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from lines import refuses
from photos import (
    CLASSES,
    MEAN,
    STD,
    assert_same,
    config,
    images_and_labels,
    open_evaluated,
    open_photos,
    refusal,
    write_images,
)
from PIL import Image

from gendd.data.batch import refuse_other_classes
from gendd.evaluation.accuracy import class_groups
from gendd_imagenet import loading
from gendd_imagenet.check import check_data
from gendd_imagenet.folders import list_file
from gendd_imagenet.sources import summarize

MIXED = {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "auto_augment": "rand-m7-n2-mstd0.5"}


@pytest.mark.parametrize("settings", [{}, MIXED], ids=["plain", "mixed"])
def test_batches_do_not_depend_on_workers_or_processes(photos, settings):
    plain = config(photos, **settings)
    whole = images_and_labels(open_photos(plain), range(3))
    assert_same(images_and_labels(open_photos(config(photos, **settings, workers=2)), range(3)), whole)
    halves = [images_and_labels(open_photos(plain, rank=rank, world=2), range(3)) for rank in (0, 1)]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*halves, strict=True)]
    assert_same(joined, whole)


def test_later_epoch_does_not_depend_on_earlier_ones(photos):
    data = open_photos(config(photos))
    assert_same(images_and_labels(data, range(11, 14)), images_and_labels(data, range(14))[11:])


def test_cached_views_depend_on_view_and_image_only(photos):
    settings = {"teacher_cache": "cache", "cached_views": 2, "label_smoothing": 0.1, "auto_augment": "rand-m7-n2"}
    cached = config(photos, **settings)
    whole, seen = open_photos(cached), {}
    for batch in whole.batches(range(33)):
        assert batch.view == batch.random.step // 11 % 2
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            seen.setdefault((batch.view, index), []).append(image)
    twice = [pair for pair in seen.values() if len(pair) == 2]
    assert len(twice) > 80 and all(torch.equal(*pair) for pair in twice), "first and third pass"
    assert not any(torch.equal(seen[0, i][0], seen[1, i][0]) for i in range(90) if {(0, i), (1, i)} <= set(seen))
    halves = open_photos(config(photos, **settings, workers=2), batch=4, rank=1, world=2)
    for batch in halves.batches(range(5)):
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            assert torch.equal(image, seen[0, index][0])
    batches = [(view, range(first, min(first + 40, 90))) for view in (1, 0) for first in (0, 40, 80)]
    for (view, rows), images in zip(batches, halves.view_batches(batches), strict=True):
        assert all(torch.equal(image, seen[view, row][0]) for row, image in zip(rows, images, strict=True)
                   if (view, row) in seen)  # fmt: skip


def test_epoch_shows_each_image_once_with_its_label(photos):
    """The color of an image is its class; 90 images make 11 batches of 8 and leave 2 out."""
    seen = images_and_labels(open_photos(config(photos, hflip=0)), range(11))
    images, labels = map(torch.cat, zip(*seen, strict=True))
    pixels = images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    assert torch.equal(pixels.mean((2, 3)).argmax(1), labels)
    assert len(labels) == 88 and torch.bincount(labels).max() <= 30
    distinct = {image.numpy().tobytes() for image in images}
    assert len(distinct) == 88


@pytest.mark.parametrize("limit", [0, 10])
def test_three_processes_evaluate_each_image_once(photos, monkeypatch, limit):
    """The 21 images are six batches, the last one smaller."""
    monkeypatch.setattr(loading, "EVAL_BATCH", 4)
    data = [open_evaluated(config(photos), rank, world=3) for rank in range(3)]
    shared = sorted((batch for part in data for batch in part.batches(limit)), key=lambda batch: batch[0])
    alone = list(open_evaluated(config(photos)).batches(limit))
    for (number, images, labels), (same, same_images, same_labels) in zip(shared, alone, strict=True):
        assert number == same and torch.equal(images, same_images) and torch.equal(labels, same_labels)
    found = torch.cat([labels for _, _, labels in alone]).tolist()
    assert len(found) == (limit or 21) and (limit or sorted(found) == [0] * 7 + [1] * 7 + [2] * 7)
    assert data[0].split == "val" and data[0].size == 21


def test_soft_labels_are_the_shares_of_mixed_images(photos):
    """Mixup mixes pixels and labels of neighbors with the same share m."""
    plain = images_and_labels(open_photos(config(photos)), range(2))
    mixed = images_and_labels(open_photos(config(photos, mixup=0.5)), range(2))
    for (images, labels), (mixed_images, soft) in zip(plain, mixed, strict=True):
        partner = torch.tensor([1, 0, 3, 2, 5, 4, 7, 6])
        different = labels != labels[partner]
        share = soft[different, labels[different]][0]
        assert 0 < share < 1
        torch.testing.assert_close(mixed_images, share * images + (1 - share) * images[partner], rtol=1e-3, atol=1e-3)
        one_hot = torch.nn.functional.one_hot(labels, 3).float()
        torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot[partner])


def test_smoothed_labels_give_a_share_to_all_classes(photos):
    plain = images_and_labels(open_photos(config(photos)), range(2))
    smoothed = images_and_labels(open_photos(config(photos, label_smoothing=0.3)), range(2))
    for (images, labels), (same, soft) in zip(plain, smoothed, strict=True):
        assert torch.equal(images, same)
        torch.testing.assert_close(soft, 0.7 * torch.nn.functional.one_hot(labels, 3) + 0.1)


def test_unlabeled_batches_contain_no_label(photos):
    flags = {"unlabeled": True, "contraction": 0}
    for settings in ({}, MIXED):
        for _, labels in images_and_labels(open_photos(config(photos, **flags, **settings)), range(2)):
            assert labels.tolist() == [-1] * 8
    assert summarize(config(photos, **flags)).num_classes == 3


def test_label_fraction_hides_labels_or_drops_images(photos):
    settings = config(photos, hflip=0, label_fraction=0.2)
    whole, few = open_photos(settings), open_photos(settings, labeled_only=True)
    assert (whole.size, few.size) == (90, 18)
    for images, labels in images_and_labels(whole, range(5)) + images_and_labels(few, range(5)):
        pixels = images * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
        known = labels >= 0
        assert torch.equal(pixels.mean((2, 3)).argmax(1)[known], labels[known])
    known = whole.listing.labels >= 0
    assert whole.listing.labels[known].tolist() == few.listing.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert list(whole.listing.names.select(known.numpy())) == list(few.listing.names)
    assert all((labels >= 0).all() for _, labels in images_and_labels(few, range(2)))


@pytest.mark.parametrize("mixed", ["mixup", "cutmix", "label_smoothing"])
def test_label_fraction_with_mixing_is_refused(photos, mixed):
    message = refusal(config(photos, label_fraction=0.2, **{mixed: 0.5}).check)
    assert f"--{mixed.replace('_', '-')} 0.5" in message and "--label-fraction 0.2" in message


def test_folder_without_classes_is_unlabeled(photos, tmp_path):
    for image in (photos / "train" / "n01").iterdir():
        (tmp_path / "deep" / "er").mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "deep" / "er")
    settings = config(tmp_path, eval_dataset=photos, unlabeled=True, contraction=0)
    assert not summarize(settings).labeled and summarize(settings).num_classes == 3
    data = open_photos(settings)
    assert data.size == 30 and data.class_names == () and data.class_sizes is None
    assert images_and_labels(data, range(1))[0][1].tolist() == [-1] * 8


def test_holdout_shares_no_image_with_training(photos):
    settings = config(photos, holdout=0.2)
    data, held = open_photos(settings), open_evaluated(settings)
    assert held.split == "held-out" and (data.size, held.size) == (72, 18)
    assert not set(data.listing.names) & set(held.listing.names)


def test_named_evaluation_set_replaces_held_out_images(photos):
    """As in `evaluate RUN --eval-dataset`; training refuses both."""
    settings = config(photos, holdout=0.2, eval_dataset=photos)
    evaluated = open_evaluated(settings)
    assert (evaluated.split, evaluated.size) == ("val", 21)
    assert open_evaluated(settings, of_training=True).size == open_photos(settings).size == 72


# Lists


@pytest.fixture
def lists(photos, tmp_path) -> dict[str, Path]:
    """Write lists with a long tail: 110 entries of class 1 (images repeat), 30 of class 2, 5 of class 3."""
    lines = []
    for label, (name, count) in enumerate((("n01", 110), ("n02", 30), ("n03", 5))):
        lines += [f"train/{name}/{name}_{number % 30}.JPEG {label}" for number in range(count)]
    evaluated = [f"val/{name}/{name}_{1000 + i}.JPEG {label}" for label, name in enumerate(("n01", "n02", "n03"))
                 for i in range(2)]  # fmt: skip
    for name, content in (("train", lines), ("test", evaluated)):
        (tmp_path / f"{name}.txt").write_text("\n".join(content) + "\n")
    return {name: tmp_path / f"{name}.txt" for name in ("train", "test")}


def test_lists_choose_images_and_set_the_long_tail(photos, lists):
    settings = config(photos, train_list=lists["train"], eval_list=lists["test"])
    data, evaluated = open_photos(settings), open_evaluated(settings)
    assert (data.size, evaluated.size, evaluated.split) == (145, 6, "test")
    assert {name: members.tolist() for name, members in class_groups(data.class_sizes).items()} == {
        "many": [True, False, False],
        "medium": [False, True, False],
        "few": [False, False, True],
    }
    labels = torch.cat([labels for _, labels in images_and_labels(data, range(18))])
    assert torch.bincount(labels).tolist()[0] >= 110 - 1


def test_missing_list_entries_are_counted_and_one_is_named(photos, lists):
    lists["train"].write_text(lists["train"].read_text() + "train/n03/none.JPEG 2\n")
    settings = config(photos, train_list=lists["train"])
    assert "--train-list" in (message := refusal(open_photos, settings))
    assert "1 of 146 entries" in message and "train/n03/none.JPEG" in message and "ILSVRC2012" in message


# The last one ends with a size in bytes or a time, not a label.
LINES = ["train/n01/n01_1.JPEG", "train/n01/n01_1.JPEG one", "7", "train/n01/n01_1.JPEG 1732982400"]


@pytest.mark.parametrize("line", LINES)
def test_invalid_list_line_is_named(photos, lists, line):
    lists["train"].write_text(f"train/n01/n01_0.JPEG 0\n{line}\n")
    assert f'line 2 is "{line}"' in refusal(open_photos, config(photos, train_list=lists["train"]))


def write_list(file: Path, entries: dict[str, int]) -> Path:
    file.write_text("".join(f"{name} {label}\n" for name, label in entries.items()))
    return file


FIRST = {"n01": "val/n01/n01_1000.JPEG", "n02": "val/n02/n02_1000.JPEG", "n03": "val/n03/n03_1000.JPEG"}


def test_lists_with_labels_from_1_are_refused(photos, tmp_path):
    """The data set has class folders or not, and one list omits a class."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for labels in ({"n01": 1, "n02": 2, "n03": 3}, {"n01": 1, "n03": 3}):
        file = write_list(tmp_path / "list.txt", {FIRST[name]: label for name, label in labels.items()})
        for flag, opening in (("train_list", open_photos), ("eval_list", open_evaluated)):
            message = refusal(opening, config(photos, **{flag: file}))
            assert f"--{flag.replace('_', '-')} {file}: its labels run from 1 to 3" in message
    write_list(file, {FIRST[name]: label for label, name in enumerate(FIRST, 1)})
    with refuses("its labels run from 1 to 3"):
        list_file(str(file), flat, 0)


def test_image_with_two_labels_in_a_list_is_refused(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("a/1.png 0\nb/2.png 1\n./a/1.png 1\n")
    with refuses(f"^{file}: gives a/1.png the labels 0 and 1; remove one of these lines"):
        list_file(str(file), tmp_path, 2)


def test_image_twice_in_an_evaluation_list_is_refused(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("a/1.png 0\nb/2.png 1\n./a/1.png 0\n")
    assert len(list_file(str(file), tmp_path, 2)) == 3
    with refuses(f"^{file}: lists a/1.png 2 times; an evaluation needs each image once"):
        list_file(str(file), tmp_path, 2, once=True)


def test_list_of_some_classes_from_1_is_accepted(photos, tmp_path):
    file = write_list(tmp_path / "list.txt", {FIRST["n02"]: 1, FIRST["n03"]: 2})
    data = open_evaluated(config(photos, eval_list=file))
    assert sorted(data.listing.labels.tolist()) == [1, 2] and len(data.class_names) == 3


@pytest.fixture
def validation(tmp_path) -> Path:
    """Write 3 classes of 7 evaluation images; as in ImageNet, each image has a unique number, here 1 to 21."""
    for place, name in enumerate(CLASSES):
        write_images(tmp_path / "photos" / "val" / name, 7, first=1 + 7 * place)
    return tmp_path / "photos"


def reassessed(folder, entries: dict[int, list[int]], count: int = 21):
    """Write a file in ReaL's format: a list of classes for each image number, from 1."""
    (folder / "real.json").write_text(json.dumps([entries.get(number, []) for number in range(1, count + 1)]))
    return folder / "real.json"


def test_real_labels_replace_folder_labels(validation, tmp_path):
    """Images without a label are left out."""
    data = open_evaluated(config(validation, eval_list=reassessed(tmp_path, {3: [2, 0], 9: [1], 21: [0]})))
    names = [data.listing.name(row).rpartition("_")[2] for row in range(data.size)]
    found = [labels.tolist() for _, _, batch in data.batches() for labels in batch]
    assert data.size == 3 and data.split == "real" and len(data.class_names) == 3
    assert sorted(zip(names, found, strict=True)) == [("21.JPEG", [0, -1]), ("3.JPEG", [2, 0]), ("9.JPEG", [1, -1])]


def test_list_without_any_label_is_named_by_its_flag(validation, tmp_path):
    file = reassessed(tmp_path, {})
    assert "--eval-list " in refusal(open_evaluated, config(validation, eval_list=file))


def test_file_in_another_format_than_reals_is_refused(validation, tmp_path):
    few, unknown = reassessed(tmp_path, {1: [0]}, count=20), "--eval-list .*has 20 entries, which do not cover"
    assert re.search(unknown, refusal(open_evaluated, config(validation, eval_list=few)))
    file = reassessed(tmp_path, {1: [3]})
    assert "has class 3, but the 3 classes count from 0" in refusal(open_evaluated, config(validation, eval_list=file))
    file.write_text('{"a": 1}')
    assert "real.json: does not hold lists" in refusal(open_evaluated, config(validation, eval_list=file))
    file.write_text("{")
    assert "real.json: cannot be read" in refusal(open_evaluated, config(validation, eval_list=file))


def test_labels_beyond_the_evaluation_classes_are_refused(photos, tmp_path):
    """The lists alone determine the number of classes of a folder without class folders."""
    for path in FIRST.values():
        shutil.copy(photos / path, tmp_path)
    entries = {Path(path).name: label for label, path in enumerate(FIRST.values())}
    train = write_list(tmp_path / "train.txt", entries)
    test = write_list(tmp_path / "test.txt", {name: label for name, label in entries.items() if label < 2})
    settings = config(tmp_path, train_list=train, eval_list=test)
    message = refusal(compare_classes, settings, 1)
    assert "3 classes to train on, 2 to evaluate on" in message


# Refused data, and files that are skipped


def compare_classes(settings, batch=8):
    training, evaluated = open_photos(settings, batch), open_evaluated(settings)
    refuse_other_classes(settings.data.dataset, training.class_names, evaluated.class_names)


@pytest.fixture
def copy(photos, tmp_path) -> Path:
    """Copy the photographs, so that a test can damage them."""
    return Path(shutil.copytree(photos, tmp_path / "copy"))


def test_different_classes_in_train_and_val_are_named(copy):
    (copy / "val" / "n03").rename(copy / "val" / "n09")
    message = refusal(compare_classes, config(copy))
    assert "3 classes to train on, 3 to evaluate on" in message and "n03, n09" in message


def test_numbered_folders_are_evaluated_in_number_order(photos, tmp_path):
    """ImageNet-V2 has numbered folders. They match classes of other names if the number of classes is equal."""
    names = [str(number) for number in range(12)]
    for number, name in enumerate(names):
        for split, folder in (("train", f"n{number:02d}"), ("val", name)):
            (tmp_path / split / folder).mkdir(parents=True)
            shutil.copy(photos / FIRST["n01"], tmp_path / split / folder)
    compare_classes(config(tmp_path), 2)
    data = open_evaluated(config(tmp_path))
    assert data.class_names == tuple(names) and data.size == 12
    order = data.listing.labels.argsort().tolist()
    assert [data.listing.path(index).parent.name for index in order] == names
    (tmp_path / "train" / "n11").rename(tmp_path / "n11")
    message = refusal(compare_classes, config(tmp_path), 2)
    assert "11 classes to train on, 12 to evaluate on" in message


def test_other_files_than_images_are_counted(copy, capsys):
    """Class folders and a folder without classes give the same counts."""
    n01 = copy / "train" / "n01"
    for name in (".ipynb_checkpoints/n01_0.JPEG", "._n01_0.JPEG", "notes.txt", "../.ipynb_checkpoints/n01_0.JPEG"):
        (n01 / name).parent.mkdir(exist_ok=True)
        (n01 / name).write_bytes(b"no image")
    for ending in ("gif", "avif", "jfif"):
        Image.new("RGB", (40, 40)).save(n01 / f"n01_x.{ending}")
    (n01 / "n01_1.JPEG").rename(n01 / "n01_1")
    data = open_photos(config(copy))
    unlabeled = open_photos(config(copy / "train", eval_dataset=copy, unlabeled=True, contraction=0))
    assert len(data.class_names) == summarize(config(copy)).num_classes == 3
    assert data.size == unlabeled.size == 93
    assert data.passed_over == unlabeled.passed_over == {"hidden": 3, ".txt": 1}
    check_data(config(copy))
    assert capsys.readouterr().out.count("passed over: 3 hidden, 1 .txt\n") == 1


def test_broken_image_is_replaced_counted_and_reported(copy, capsys):
    whole = images_and_labels(open_photos(config(copy)), range(11))
    victim = copy / "train" / "n02" / "n02_3.JPEG"
    victim.write_bytes(victim.read_bytes()[:200])
    data = open_photos(config(copy, workers=1))
    passed_over = images_and_labels(data, range(11))
    assert data.broken_images == 1
    assert f"skipped broken image: {victim}" in capsys.readouterr().err
    changed = sum(
        not torch.equal(one, other)
        for (images, _), (others, _) in zip(whole, passed_over, strict=True)
        for one, other in zip(images, others, strict=True)
    )
    assert changed == 1


def test_too_many_broken_images_end_the_run(copy):
    for victim in list((copy / "train" / "n02").iterdir())[:20]:
        victim.write_text("no image")
    message = refusal(lambda: images_and_labels(open_photos(config(copy)), range(11)))
    assert "images are broken" in message and "--check-data" in message


def test_broken_evaluation_image_ends_the_run(copy):
    (copy / "val" / "n01" / "n01_1000.JPEG").write_text("no image")
    message = refusal(lambda: list(open_evaluated(config(copy, workers=1)).batches()))
    assert "n01_1000.JPEG" in message and "needs every image" in message


def test_absent_data_names_the_release_to_fetch(tmp_path):
    settings = config("imagenet", data_root=tmp_path)
    summary = summarize(settings)
    assert summary.num_classes == 1000
    assert f"{tmp_path}/imagenet" in summary.missing[0] and "ILSVRC2012" in summary.missing[0]
    assert "ILSVRC2012" in refusal(open_photos, settings)
    assert summarize(config(tmp_path / "nowhere")).num_classes is None
    file = Path("data/ImageNet_LT_train.txt")
    absent = summarize(config("imagenet", data_root=tmp_path, train_list=file)).missing[1]
    assert f"`train_list` {file}: no such file, looked for {file.absolute()}; fetch the ImageNet-LT lists" in absent


def test_odd_micro_batches_cannot_be_mixed(photos):
    assert "--batch-size 9: gives micro-batches of 9" in refusal(open_photos, config(photos, label_smoothing=0.1), 9)


def test_batch_larger_than_the_set_is_refused(photos):
    assert "only 90 training images, fewer than --batch-size 91" in refusal(open_photos, config(photos), 91)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": (0.9, 0.5)}, "--crop-scale 0.9 0.5"),
        ({"label_smoothing": 2}, "--label-smoothing 2"),
        ({"label_smoothing": 0.1, "unlabeled": True}, "--label-smoothing 0.1: smooths labels, but"),
        ({"cutmix": -1}, "--cutmix -1"),
        ({"holdout": 0.1, "eval_dataset": "other"}, "--eval-dataset other: --holdout 0.1 evaluates on held-out"),
        ({"holdout": 0.1, "eval_list": "a.txt"}, "--eval-list a.txt: --holdout 0.1 evaluates on held-out"),
    ],
)
def test_invalid_data_settings_are_refused(photos, settings, message):
    assert message in refusal(config(photos, **settings).check)


# --check-data


def test_check_data_counts_and_finds_no_error(photos, lists, capsys):
    check_data(config(photos, train_list=lists["train"], eval_list=lists["test"], image_size=60))
    output = capsys.readouterr().out
    assert "145 images to train on, 3 classes of 5 to 110" in output
    assert "6 images to evaluate on" in output and "nothing is missing or broken" in output
    sides = [min(Image.open(photos / line.split()[0]).size) for line in Path(lists["test"]).read_text().splitlines()]
    small = sum(side < 60 for side in sides)
    assert small and f"{small} of these 6 are smaller than 60 pixels" in output


def test_check_data_lists_missing_and_broken_images(copy, lists, capsys):
    (copy / "train" / "n01" / "n01_0.JPEG").unlink()
    (copy / "val" / "n01" / "n01_1000.JPEG").write_text("no image")
    settings = config(copy, train_list=lists["train"])
    assert "missing or broken" in refusal(check_data, settings)
    output = capsys.readouterr().out
    assert f"{copy}/train/n01/n01_0.JPEG: missing" in output and f"{copy}/val/n01/n01_1000.JPEG: " in output


def test_folder_with_train_only_needs_holdout(photos, tmp_path):
    (tmp_path / "train").symlink_to(photos / "train")
    assert "`holdout` 0.1 evaluates on a part of train" in summarize(config(tmp_path)).missing[0]
    summary = summarize(config(tmp_path, holdout=0.2))
    assert (summary.num_classes, summary.missing) == (3, ()) and "evaluated on a part held out" in summary.details
    assert open_evaluated(config(tmp_path, holdout=0.2)).size == 18
