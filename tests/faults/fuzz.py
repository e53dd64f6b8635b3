"""Damaged files: every reader gets thousands of mutations of a valid file, and only an expected error may result."""

import gzip
import io
import json
import os
import resource
import shutil
import signal
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from digits import Runs
from forked import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from programs import imagenet_config
from rows import Row
from small_images import evaluation, training

from gendd.core.errors import PassingFault, UserError
from gendd.data.decode import BrokenImage
from gendd.distillation.cached_rows import Float16Rows
from gendd.distillation.teacher_cache import Output, TeacherCache
from gendd.networks import checkpoint
from gendd.runs.config_file import read_config
from gendd.runs.folder import RunFolder, embedded_record, learned_classes
from gendd_cifar.family import FAMILY
from gendd_cifar.sources import _read
from gendd_imagenet.folders import list_file, list_reassessed
from gendd_imagenet.images import EvalView, TrainView
from gendd_imagenet.shards import UnreadableShard, images_of

EXPECTED = (UserError, PassingFault, BrokenImage, UnreadableShard)
MUTATIONS, FEW = 2000, 30
# Limits of one reading, above the process's size at its start.
SECONDS, BYTES = 20, 2 * 2**30

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def mutated_bytes(draw, content: bytes) -> bytes:
    """Draw a copy with up to four changes: bytes replaced, inserted or removed, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        first = draw(st.integers(0, len(changed)))
        stop = first + draw(st.sampled_from((0, 1, 2, 8, 100, len(changed))))
        changed[first:stop] = draw(st.binary(max_size=16) | st.just(b"\xff" * 8) | st.just(b"\0" * 8))
    return bytes(changed)


@st.composite
def mutated_json(draw, content: bytes) -> bytes:
    """Draw a copy with some values replaced by others of any type, or removed."""
    whole = [json.loads(content)]
    for _ in range(draw(st.integers(1, 3))):
        inside, place = whole, 0
        while isinstance(inside[place], dict | list) and inside[place] and draw(st.integers(0, 3)):
            inside = inside[place]
            place = draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else range(len(inside))))
        if isinstance(inside, dict) and draw(st.booleans()):
            del inside[place]
        else:
            inside[place] = draw(values)
    return json.dumps(whole[0]).encode()


def fuzz(folder: Path, short: bool) -> Iterator[Row]:
    runs = Runs(folder)
    for name, contents, read in _readers(folder, runs.undisturbed()):
        yield _fuzzed(folder, name, contents, read, FEW if short else MUTATIONS)


def _readers(folder: Path, run_folder: Path) -> Iterator[tuple[str, list[bytes], Callable[[Path], object]]]:
    """Yield the kind of a file, valid contents, and the function that reads it."""
    yield "checkpoint", [(run_folder / "checkpoints" / "last.pt").read_bytes()], _read_weights
    yield "safetensors file", [(run_folder / "student.safetensors").read_bytes()], _read_weights
    yield "image", list(_images()), _image_reader()
    yield "shard", list(_shards(next(_images()))), lambda path: list(images_of(str(path)))
    labels = "".join(f"train/n{number}/{number}.JPEG {number}\n" for number in range(9)).encode()
    yield "list of images", [labels], lambda path: list_file(str(path), folder, 9)
    reader = _reassessed_reader(folder / "photos")
    yield "list of reassessed labels", [json.dumps([[0], [1, 0], []]).encode()], reader
    configuration = (run_folder / "config.json").read_bytes()
    yield "configuration", [configuration], lambda path: read_config(path, FAMILY)
    for name in ("config.json", "data.json"):
        yield (
            name,
            [(run_folder / name).read_bytes()],
            _run_folder_reader(folder / f"run with {name}", run_folder, name),
        )
    yield "cache.json", *_cache(folder / "cache")


def _fuzzed(folder: Path, name: str, contents: list[bytes], read: Callable[[Path], object], count: int) -> Row:
    """Read mutations in a process of limited memory, and return their row."""
    report, file = folder / "report.json", folder / f"mutated {name}"

    def work() -> None:
        before = _size()
        resource.setrlimit(resource.RLIMIT_AS, (before + BYTES, before + BYTES))
        report.write_text(json.dumps(_survey(file, contents, read, count)))

    begin = time.monotonic()
    ended = run(work, folder)
    cases, broken, peak = json.loads(report.read_text()) if report.exists() else (0, [], 0)
    report.unlink(missing_ok=True)
    if ended.code:
        broken.append(ended.error.strip().splitlines()[-1] if ended.error else f"exit code {ended.code}")
    promise = f"A damaged {name} is read or gives one line, within {SECONDS} s and {BYTES >> 30} GiB"
    return Row(promise, cases, round(time.monotonic() - begin, 1), broken, f"at most {peak} MB more memory")


def _survey(file: Path, contents: list[bytes], read: Callable[[Path], object], count: int) -> tuple:
    cases, broken = 0, {}
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mutations = [mutated_bytes(content) for content in contents]
    if contents[0][:1] in b"{[":
        mutations += [mutated_json(content) for content in contents]

    @settings(max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)
    @given(st.one_of(mutations))
    def survive(content: bytes) -> None:
        nonlocal cases
        cases += 1
        file.write_bytes(content)
        signal.alarm(SECONDS)
        try:
            read(file)
        except EXPECTED as error:
            assert str(error).strip(), "an error without a message"
        finally:
            signal.alarm(0)

    try:
        survive()
    except BaseException as error:
        broken = {f"{type(error).__name__}: {error}": file.read_bytes()}
        import traceback

        traceback.print_exc()
    return cases, list(broken), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _read_weights(path: Path) -> None:
    embedded_record(path)
    checkpoint.read_weights(path)


def _images() -> Iterator[bytes]:
    pixels = torch.randint(256, (20, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    for kind, options in (
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        yield file.getvalue()


def _image_reader() -> Callable[[Path], object]:
    config = imagenet_config("--dataset", "photos", "--student", "resnet18", "--image-size", "16")
    training_view, view = TrainView(config), EvalView(16, 0.875, "bicubic")

    def read(path: Path) -> None:
        content = path.read_bytes()
        _read(path, 16)
        for decode in (lambda: training_view(content, 0), lambda: view(content)):
            try:
                decode()
            except BrokenImage:
                continue

    return read


def _shards(image: bytes) -> Iterator[bytes]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(3):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = len(image)
            archive.addfile(entry, io.BytesIO(image))
    yield file.getvalue()
    yield gzip.compress(file.getvalue())


def _reassessed_reader(photos: Path) -> Callable[[Path], object]:
    for number in (1, 2, 3):
        image = photos / "val" / f"n{number % 2}" / f"ILSVRC2012_val_{number:08d}.JPEG"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    return lambda path: list_reassessed(str(path), photos, "val")


def _run_folder_reader(place: Path, whole: Path, name: str) -> Callable[[Path], object]:
    shutil.copytree(whole, place, symlinks=True)
    data, evaluated = training(20), evaluation(9)

    def read(path: Path) -> None:
        path.replace(place / name)
        run_folder = RunFolder(place)
        run_folder.config(FAMILY)
        learned_classes(place)
        run_folder.check_data(data, evaluated)
        # The file is needed for a report of a problem.
        (place / name).replace(path)

    return read


def _cache(place: Path) -> tuple[list[bytes], Callable[[Path], object]]:
    settings_of_teacher = {"teacher": "resnet56", "teacher_weights_sha256": "0" * 64, "feature_width": 64}
    cache = TeacherCache(place, 2, training(20), [Output("view", slice(0, 64), Float16Rows(64))])
    cache.claim(settings_of_teacher)

    def read(path: Path) -> None:
        cache.record.write_bytes(path.read_bytes())
        cache.claim(settings_of_teacher)

    return [cache.record.read_bytes()], read
