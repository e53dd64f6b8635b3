"""The reinforce program: unchanged images, the features of their views, resuming, several processes, and errors."""

import hashlib
import json
import multiprocessing
import shutil
import tarfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from forked import run_in_two
from lines import refuses
from photos import config
from programs import IMAGENET
from toy import own

from gendd.core.distributed import World
from gendd.core.errors import UserError
from gendd.data.batch import Normalize
from gendd.distillation.teacher import FrozenTeacher
from gendd.family import family_named
from gendd.programs.main import main as program
from gendd_imagenet import reinforcing
from gendd_imagenet.images import TrainView
from gendd_imagenet.make_shards import add_file
from gendd_imagenet.make_shards import main as make_shards
from gendd_imagenet.reinforce import reinforce
from gendd_imagenet.stored_views import ENDING, DamagedViews, ViewFormat, ViewKey

TEACHER = ["--teacher", "toy:own"]
FLAGS = ["--views", "3", "--image-size", "32", "--workers", "0", "--batch-size", "24",
         "--precision", "fp32"]  # fmt: skip
SHARDED = ["--images-per-shard", "40"]


def write(source: Path | str, folder: Path, *flags: str) -> Path:
    teacher = [] if "--teacher" in flags else TEACHER
    reinforce(IMAGENET, [str(source), str(folder), *teacher, *FLAGS, *flags])
    return folder


def contents(*files: Path) -> dict[str, bytes]:
    """Return the files in tar archives by name."""
    found = {}
    for file in files:
        with tarfile.open(file) as archive:
            found |= {member.name: archive.extractfile(member).read() for member in archive}
    return found


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """Write 90 images in 3 shards, with maps."""
    return write(photos / "train", tmp_path_factory.mktemp("shards") / "out", *SHARDED, "--dense-grid", "2")


def test_images_and_captions_are_unchanged(photos, folder):
    files = contents(*folder.glob("*.tar"), *folder.glob("*.held-out"))
    images = [content for name, content in files.items() if name.endswith(".jpeg")]
    assert Counter(images) == Counter(path.read_bytes() for path in (photos / "train").rglob("*.JPEG"))
    assert {content for name, content in files.items() if name.endswith(".txt")} == {b"n01", b"n02", b"n03"}
    names = contents(folder / "00000.tar")
    assert list(names)[:3] == [f"{list(names)[0][:9]}{ending}" for ending in (".jpeg", ENDING, ".txt")]


def test_a_tenth_of_a_small_set_is_held_out_with_center_views(folder):
    sizes = json.loads((folder / "sizes.json").read_text())
    held = contents(*folder.glob("*.held-out"))
    assert sum(sizes.values()) == 81 and len([name for name in held if name.endswith(".jpeg")]) == 9
    views = [safetensors.torch.load(content) for name, content in held.items() if name.endswith(ENDING)]
    assert all(one["features"].shape == (1, 64) and one["seeds"].tolist() == [0] for one in views)


def test_features_are_those_of_the_views_drawn_again(folder):
    record = json.loads((folder / "reinforced.json").read_text())
    view = TrainView(config("unused", crop_scale=tuple(record["crop_scale"])))
    network = own(num_classes=0)
    network.pretrained_cfg = {"mean": record["teacher_mean"], "std": record["teacher_std"], "input_size": (3, 32, 32)}
    teacher = FrozenTeacher(network, network, torch.device("cpu"), has_classifier=False, grid=2)
    normalize = Normalize(record["teacher_mean"], record["teacher_std"], torch.device("cpu"))
    flips = []
    files = contents(folder / "00001.tar")
    for name in [name for name in files if name.endswith(".jpeg")]:
        stored = safetensors.torch.load(files[name.removesuffix(".jpeg") + ENDING])
        drawn = [view.draw(files[name], seed) for seed in stored["seeds"].tolist()]
        assert [list(one.crop) for one in drawn] == stored["crops"].tolist()
        assert [one.flipped for one in drawn] == stored["flips"].tolist()
        outputs = teacher.outputs_of(normalize(torch.stack([one.pixels for one in drawn])))
        expected = stored["features"].float(), stored["maps"].float().flatten(1)
        torch.testing.assert_close(outputs, torch.cat(expected, 1), rtol=2e-3, atol=1e-4)
        flips += stored["flips"].tolist()
    assert 0 < sum(flips) < len(flips)


def test_shards_give_the_features_of_their_folder(photos, folder, tmp_path, capsys):
    """The views follow from the bytes of an image, not from its place."""
    make_shards([str(photos / "train"), str(tmp_path / "plain"), "--images-per-shard", "25"])
    from_shards = write(tmp_path / "plain", tmp_path / "out", "--dense-grid", "2", "--holdout", "0.1")
    assert "of about 90 images in 4 shards" in capsys.readouterr().out, "the last shard has 15, by sizes.json"
    ours, theirs = (
        {
            safetensors.torch.load(files[name.removesuffix(".jpeg") + ENDING])["features"].numpy().tobytes()
            for name in files
            if name.endswith(".jpeg")
        }
        for files in (contents(*made.glob("*.tar")) for made in (from_shards, folder))
    )
    assert len(ours & theirs) > 60


def test_features_are_named_like_their_image(photos, tmp_path):
    """webdataset groups the files of a sample by these names; `tar cf OUT .` writes ./ before each."""
    content = (photos / "train" / "n01" / "n01_0.JPEG").read_bytes()
    (tmp_path / "plain").mkdir()
    with tarfile.open(tmp_path / "plain" / "00000.tar", "w") as shard:
        for name in ("./b.c/1.JPEG", "./2.v3.JPEG", "4.JPEG"):
            add_file(shard, name, content)
    write(tmp_path / "plain", tmp_path / "out", "--holdout", "0.1")
    names = list(contents(tmp_path / "out" / "00000.tar"))
    assert names[1::2] == [name.removesuffix(".JPEG") + ENDING for name in names[::2]] and len(names) == 4


def test_interrupted_writing_resumes_to_the_same_bytes(photos, folder, tmp_path, monkeypatch):
    original, done = reinforcing.Reinforcing._samples, []

    def interrupted(self, number):
        done.append(number)
        if len(done) == 2:
            raise KeyboardInterrupt
        return original(self, number)

    flags = [*SHARDED, "--dense-grid", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(reinforcing.Reinforcing, "_samples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(photos / "train", tmp_path / "out", *flags)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1 and not (tmp_path / "out" / "sizes.json").exists()
    write(photos / "train", tmp_path / "out", *flags, "--workers", "2", "--batch-size", "9")
    ours, theirs = (
        {name: content for name, content in contents(*made.glob("*.tar")).items() if not name.endswith(ENDING)}
        for made in (tmp_path / "out", folder)
    )
    assert ours == theirs


def test_deleted_file_of_a_shard_is_written_again(photos, folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "00001.held-out").unlink()
    (copy / "00002.tar").unlink()
    (copy / ".writing" / "00000.tar").mkdir(parents=True)  # Left by another process.
    write(photos / "train", copy, *SHARDED, "--dense-grid", "2")
    assert digests(copy) == digests(folder)


def _write(source: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    write(source, folder, "--images-per-shard", "9", "--dense-grid", "2")


def test_two_processes_write_as_one(photos, tmp_path):
    _write(photos / "train", tmp_path / "alone")
    started = [
        multiprocessing.get_context("fork").Process(target=_write, args=(photos / "train", tmp_path / "both"))
        for _ in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")


def test_shard_may_take_longer_than_other_processes_wait(photos, tmp_path, monkeypatch):
    """The first process computes the only shard, in 12 batches of 0.35 s."""
    outputs_of = FrozenTeacher.outputs_of

    def slow(teacher, images):
        time.sleep(0.35)
        return outputs_of(teacher, images)

    monkeypatch.setattr(FrozenTeacher, "outputs_of", slow)
    run_in_two(partial(write, photos / "train", tmp_path / "out"), tmp_path, PEER_TIMEOUT=2)
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00000.tar"]


def test_random_teacher_is_the_same_in_each_command(photos, tmp_path):
    """Otherwise a command could not resume, nor several processes share the work."""
    for _ in range(2):
        write(photos / "train", tmp_path / "out", "--teacher", "toy:network", "--teacher-weights", "random")


def test_int8_is_close_to_float16_and_says_how_close(photos, folder, tmp_path, capsys):
    int8 = write(photos / "train", tmp_path / "out", *SHARDED, "--dense-grid", "2", "--dtype", "int8")
    assert "int8: features have a cosine of 0.9999" in capsys.readouterr().out
    ours, theirs = (contents(made / "00000.tar") for made in (int8, folder))
    for name in (name for name in ours if name.endswith(ENDING)):
        int8_views, views = safetensors.torch.load(ours[name]), safetensors.torch.load(theirs[name])
        assert int8_views["features"].dtype == torch.int8 and int8_views["maps"].shape == (3, 4, 4)
        for output, scale in (
            ("features", int8_views["features_scale"][:, None]),
            ("maps", int8_views["maps_scale"][:, None]),
        ):
            expected = views[output].float()
            values = int8_views[output].float() * scale.float()
            # Half a step, and the rounding of the scale.
            assert (values - expected).abs().max() <= 0.51 * scale.float().max() + 1e-3 * expected.abs().max()


def test_broken_images_are_left_out_and_named(photos, tmp_path, capsys):
    source = Path(shutil.copytree(photos / "train" / "n01", tmp_path / "source"))
    (source / "n01_3.JPEG").write_bytes(b"\xff\xd8\xff broken")
    made = write(source, tmp_path / "out")
    captured = capsys.readouterr()
    assert "left out broken image" in captured.err and "left out 1 broken image;" in captured.out
    held = contents(*made.glob("*.held-out"))
    assert sum(json.loads((made / "sizes.json").read_text()).values()) + sum(n.endswith(ENDING) for n in held) == 29


def test_broken_images_of_other_processes_are_counted(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(World, "all_reduce", lambda _, count: count + 2)
    write(photos / "train" / "n01", tmp_path / "out")
    assert "left out 2 broken images; train with" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--views", "4"], "views 3 there, 4 here"),
        (["--crop-scale", "0.2", "1"], r"crop scale \[0.6, 1.0\] there, \[0.2, 1.0\] here"),
        (["--dense-grid", "0"], "dense grid 2 there, 0 here"),
        (["--teacher", "toy:network", "--teacher-weights", "random"], "teacher toy:own there, toy:network here"),
    ],
)
def test_other_settings_are_refused(photos, folder, flags, words):
    with refuses(f"OUT .*: was made from other settings: .*{words}"):
        write(photos / "train", folder, *SHARDED, "--dense-grid", "2", *flags)


def test_unusable_sources_are_refused(photos, folder, tmp_path):
    with refuses("IMAGES .*: already holds a teacher's features"):
        write(folder, tmp_path / "out")
    with refuses("IMAGES .*: no such folder"):
        write(tmp_path / "none", tmp_path / "out")
    with refuses("^OUT is missing"):
        reinforce(IMAGENET, [str(photos)])
    with refuses("--teacher-weights is missing"):
        write(photos / "train", tmp_path / "out", "--teacher", "resnet18")
    with refuses("--teacher toy:wide: only one teacher's features can be stored; name one"):
        write(photos / "train", tmp_path / "out", *TEACHER, "--teacher", "toy:wide")
    with refuses("--crop-scale 0.5 0.2: must be two shares"):
        write(photos / "train", tmp_path / "out", "--crop-scale", "0.5", "0.2")
    with pytest.raises(UserError, match="works with photographs only"):
        program("gendd_cifar", ["reinforce", str(photos), str(tmp_path / "out")])
    assert family_named("gendd_cifar") and not (tmp_path / "out").exists()


def test_cut_shard_is_refused_and_not_written(photos, tmp_path):
    make_shards([str(photos / "train"), str(tmp_path / "plain"), "--images-per-shard", "45"])
    whole = (tmp_path / "plain" / "00001.tar").read_bytes()
    (tmp_path / "plain" / "00001.tar").write_bytes(whole[: len(whole) // 2])
    for workers in ("0", "1"):
        with refuses("IMAGES .*: .*00001.tar cannot be read"):
            write(tmp_path / "plain", tmp_path / "out", "--workers", workers)
        assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["00000.tar"]
    (tmp_path / "plain" / "00000.tar").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain" / "sizes.json").unlink()
    with refuses("IMAGES .*plain: .*00000.tar cannot be read"):
        write(tmp_path / "plain", tmp_path / "other")


def test_image_that_vanishes_is_named(photos, tmp_path, monkeypatch):
    source = Path(shutil.copytree(photos / "train" / "n01", tmp_path / "source"))
    monkeypatch.setattr(reinforcing.Reinforcing, "_say", lambda *_: (source / "n01_3.JPEG").unlink(missing_ok=True))
    with refuses("IMAGES .*source: .*n01_3.JPEG: No such file or directory"):
        write(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("DefaultCPUAllocator: can't allocate memory", "^--batch-size 24: needs too much memory; lower it$"),
        ("no kernel", "^--teacher toy:own: fails on [0-9]+ images .no kernel.; choose another network$"),
    ],
)
def test_teacher_that_fails_on_a_batch_is_named(photos, tmp_path, monkeypatch, words, told):
    def failing(*_):
        raise RuntimeError(words)

    monkeypatch.setattr(FrozenTeacher, "outputs_of", failing)
    with refuses(told):
        write(photos / "train", tmp_path / "out")


def test_stored_views_notice_every_damage():
    image = b"an image"
    views = ViewFormat(6, 4, 2, int8=True)
    outputs = torch.randn(2, 14, generator=torch.Generator().manual_seed(0))
    stored = views.encode(image, outputs, [ViewKey(7, (1, 2, 3, 4), True), ViewKey(8, (0, 0, 9, 9), False)])
    tensors = views.decode(image, stored, 2)
    assert tensors["crops"].tolist() == [[1, 2, 3, 4], [0, 0, 9, 9]] and tensors["flips"].tolist() == [True, False]
    torch.testing.assert_close(views.values(tensors), views.rounded(outputs), rtol=0, atol=0)
    for place in range(len(stored)):
        damaged = bytearray(stored)
        damaged[place] ^= 1
        with pytest.raises(DamagedViews):
            tensors = views.decode(image, bytes(damaged), 2)
    with pytest.raises(DamagedViews, match="belong to another image"):
        views.decode(b"another", stored, 2)
    with pytest.raises(DamagedViews, match="number of views"):
        views.decode(image, stored, 3)
    with pytest.raises(DamagedViews):
        views.decode(image, stored[:-3], 2)
