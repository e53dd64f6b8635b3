"""Files that change under a run, between a kill and the next start, and values that are not finite."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import timm
import torch
from digits import Runs
from forked import Ended, run
from photos import write_photos
from PIL import Image
from programs import train_cifar, train_imagenet
from rows import Row, tested
from small_images import write_folder
from small_runs import COMMON, TOY

import gendd
from gendd.training.loop import Training
from gendd_imagenet.make_shards import main as make_shards

PHOTOS = ["--student", TOY, "--image-size", "32", "--batch-size", "16", "--epochs", "2", "--warmup-epochs", "0",
          "--precision", "fp32", "--workers", "0", "--crop-pct", "1"]  # fmt: skip


def changes(folder: Path, short: bool) -> Iterator[Row]:
    runs = Runs(folder)
    small, photos = write_folder(folder / "small"), write_photos(folder / "photos")
    make_shards([str(photos / "train"), str(folder / "shards"), "--images-per-shard", "23"])
    shard = folder / "shards" / "00000.tar"
    of_small = ["classification", *COMMON, "--epochs", "2", "--batch-size", "16", "--dataset", str(small)]
    of_photos = ["classification", *PHOTOS, "--dataset", str(photos)]
    of_shards = ["regression", *PHOTOS, "--teacher", TOY, "--teacher-weights", "random", "--unlabeled",
                 "--contraction", "0", "--dataset", f"{folder}/shards/{{00000..00003}}.tar", "--eval-dataset",
                 str(photos), "--steps-per-epoch", "5"]  # fmt: skip
    teacher, cached = folder / "teacher" / "checkpoints" / "last.pt", folder / "cache"
    of_teacher = ["kd", *COMMON, "--teacher", TOY, "--teacher-weights", str(folder / "teacher")]
    cases = {
        "an image of a small data set is exchanged": (train_cifar, of_small, small / "train/a/0.png", _larger_image),
        "an image of a small data set is renamed": (train_cifar, of_small, small / "train/b/0.png", _renamed),
        "a photograph is exchanged": (train_imagenet, of_photos, photos / "train/n01/n01_0.JPEG", _larger_image),
        "a photograph is renamed": (train_imagenet, of_photos, photos / "train/n02/n02_0.JPEG", _renamed),
        "a shard is rewritten": (train_imagenet, of_shards, shard, lambda path: path.write_bytes(bytes(20480))),
        "the teacher's file is replaced": (train_cifar, of_teacher, teacher, _other_weights),
    }
    yield tested(
        "Data or a teacher that change under a run are noticed",
        (_noticed(folder, name, *case) for name, case in cases.items()),
    )
    yield tested("A cache of another teacher is refused", _other_cache(runs, cached))
    yield tested("A value that is not finite is named", _not_finite(runs, folder))


def _larger_image(path: Path) -> None:
    Image.effect_noise((64, 64), 99).convert("RGB").save(path)


def _renamed(path: Path) -> None:
    path.rename(path.with_name(f"new{path.suffix}"))


def _other_weights(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["model"] = {name: value + 1 for name, value in content["model"].items()}
    torch.save(content, path)


def _interrupted(work: Callable[[], object]) -> None:
    """Train until the second epoch begins."""
    train_epoch = Training.train_epoch

    def stop(self):
        if self.epoch:
            raise KeyboardInterrupt
        return train_epoch(self)

    with patch.object(Training, "train_epoch", stop):
        work()


def _noticed(folder: Path, name: str, program: Callable, words: list[str], path: Path, change: Callable) -> str:
    work = partial(program, [*words, "--out", str(folder / "run")])
    first = run(lambda: _interrupted(work), folder)
    change(path)
    ended = run(work, folder)
    shutil.rmtree(folder / "run")
    if first.code != 130:
        return f"{name}: the first start ended with {first}"
    return _refused(name, ended, "another teacher" if "teacher" in name else "other data")


def _refused(name: str, ended: Ended, words: str) -> str:
    problem = ended.problem or ("" if ended.code == 2 and words in ended.error else f"{words!r} is missing")
    return problem and f"{name}: {problem} in {ended.error.strip()!r}"


def _other_cache(runs: Runs, cache: Path) -> Iterator[str]:
    flags = ("--teacher-cache", str(cache), "--cached-views", "1")
    runs.undisturbed(*flags)
    other = Runs(runs.folder / "other_teacher", seed=1)
    yield _refused("cache", run(other.command(other.folder / "run", *flags), runs.folder), "made from other settings")


def _not_finite(runs: Runs, folder: Path) -> Iterator[str]:
    broken = Runs(folder / "broken")
    path = broken.folder / "teacher" / "checkpoints" / "last.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["classifier.bias"][0] = float("nan")
    torch.save(content, path)
    yield _refused("teacher", run(broken.command(folder / "run"), folder), "classifier.bias holds values that are not")
    train_step = Training.train_step

    def poisoned(self, *arguments):
        train_step(self, *arguments)
        dict(self.task.model().named_parameters())["norm.bias"].data[0] = float("nan")

    for steps in ("1", "3"):  # The last step of a run, and one before others.
        with patch.object(Training, "train_step", poisoned):
            ended = run(runs.command(folder / "run", "--epochs", steps), folder)
        yield _refused("student", ended, "is not finite at step")
        shutil.rmtree(folder / "run")
    images = torch.rand(16, 3, 32, 32)
    images[5, 0, 0, 0] = float("nan")
    networks = {name: timm.create_model("test_resnet", num_classes=10) for name in ("teacher", "student")}
    given = partial(gendd.distill, **networks, data=[images], out=folder / "own")
    yield _refused("image", run(given, folder), "image 5 of a batch holds values that are not finite")
