"""Images, teacher and runs on their way to a machine without a network and back, for bench/gpu.sh.

    python bench/gpu_parts.py pack FOLDER DATASET TEACHER MEGABYTES   FOLDER/packing and the images, as FOLDER/part-*
    python bench/gpu_parts.py unpack FOLDER            the parts' images as a folder of BMP files; prints its path
    python bench/gpu_parts.py collect RUNS OUT "METHODS" MEGABYTES   what is worth keeping of runs, as OUT/runs.tar.*

Images travel as strips, up to 500 of a class one below the other, in lossless WebP: three quarters of the bytes of as
many PNG files, and no pixel changes.
"""

import io
import json
import shutil
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from gendd.errors import UserError, run_program
from gendd.runs import RunFolder, data_name
from gendd_cifar.sources import SPLITS, Source, read_source

SIDE, STRIP = 32, 500
CONTENTS = "contents.json"
KEPT = ("config.json", "data.json", "environment.json", "metrics.jsonl", "result.json", "student.safetensors")
PIECE = 16 * 10**6


def pack(folder: str, dataset: str, teacher: str, megabytes: str) -> None:
    root, packing = Path(folder), Path(folder, "packing")
    if not Path(teacher).is_file():
        raise UserError(f"TEACHER {teacher}: no such file; name the teacher's weights")
    shutil.copy(teacher, packing / "teacher.pth")
    _write_strips(read_source(dataset, "data", SIDE), packing / "images")
    (packing / "wheels.txt").unlink(missing_ok=True)
    sizes = {str(path.relative_to(packing)): path.stat().st_size for path in _files(packing)}
    parts = split(sizes, int(megabytes) * 10**6)
    for number, names in enumerate(parts, start=1):
        part = root / f"part-{number}"
        for name in names:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (packing / name).rename(part / name)
        contents = {"dataset": data_name(dataset), "files": sizes}
        (part / CONTENTS).write_text(json.dumps(contents))
        print(f"{part}: {len(names)} files, {sum(sizes[name] for name in names) / 1e6:.1f} MB")
    shutil.rmtree(packing)


def split(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Names in parts of at most `limit` bytes each, unless one file alone has more: wheels and teacher first."""
    parts, room = [], 0
    for name in sorted(sizes, key=lambda name: (name.startswith("images/"), name)):
        if not parts or sizes[name] > room:
            parts.append([])
            room = limit
        parts[-1].append(name)
        room -= sizes[name]
    return parts


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write_strips(source: Source, folder: Path) -> None:
    for split_name in SPLITS:
        images = getattr(source, split_name)
        for label, name in enumerate(source.class_names):
            pixels = images.images[images.labels == label].permute(0, 2, 3, 1).numpy()
            (folder / split_name / name).mkdir(parents=True)
            for first in range(0, len(pixels), STRIP):
                strip = Image.fromarray(np.concatenate(pixels[first : first + STRIP]))
                strip.save(folder / split_name / name / f"{first:05d}.webp", lossless=True)


def unpack(folder: str) -> None:
    parts = sorted(Path(folder).glob(f"part-*/{CONTENTS}"))
    if not parts:
        raise UserError(f"{folder}: holds no part-*; make them with: bash bench/gpu.sh pack {folder}")
    contents = json.loads(parts[0].read_text())
    found = {}
    for part in parts:
        found |= {str(path.relative_to(part.parent)): path for path in _files(part.parent)}
    sizes = {name: path.stat().st_size for name, path in found.items()}
    absent = [name for name, size in contents["files"].items() if sizes.get(name) != size]
    if absent:
        raise UserError(f"{folder}: {len(absent)} files are in parts that are not here yet, such as {absent[0]}")
    data, unfinished = Path(folder, contents["dataset"]), Path(folder, "unpacking")
    if not data.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        strips = [(found[name], unfinished / Path(name).relative_to("images")) for name in found if "images/" in name]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda strip: _write_images(*strip), strips))
        unfinished.rename(data)
    print(data)


def _write_images(strip: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(strip) as image:
        pixels = np.asarray(image.convert("RGB"))
    for number, one in enumerate(pixels.reshape(-1, SIDE, SIDE, 3)):
        # Written and read in half the time of PNG.
        Image.fromarray(one).save(target.parent / f"{int(target.stem) + number:05d}.bmp")


def collect(runs: str, out: str, methods: str, megabytes: str) -> None:
    root, room = Path(runs), int(megabytes) * 10**6
    files = sorted(root.glob("logs/*.txt"))
    folders = sorted(path.parent for path in root.rglob("config.json"))
    for folder in folders:
        files += [folder / name for name in KEPT if (folder / name).exists()]
    room -= sum(map(_in_archive, files))
    for run in sorted(map(RunFolder, folders), key=lambda run: _rank(run, methods.split())):
        if not run.last.exists() or (run.result.exists() and run.read("config.json")["method"] != "pretrain"):
            continue
        if _in_archive(run.last) > room:
            print(f"{run.path}: no room for its checkpoint; it can only go on where it is")
            continue
        room -= _in_archive(run.last)
        files.append(run.last)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in files:
            archive.add(file, file.relative_to(root.parent))
    for old in Path(out).glob("runs.tar.*"):
        old.unlink()
    whole = content.getvalue()
    for number, first in enumerate(range(0, len(whole), PIECE)):
        Path(out, f"runs.tar.{number}").write_bytes(whole[first : first + PIECE])


def _in_archive(file: Path) -> int:
    """Bytes of a file in a tar archive, at most."""
    return file.stat().st_size + 2048


def _rank(run: RunFolder, methods: list[str]) -> int:
    """Whose checkpoint is kept first: a first stage's, from which others start, then in the order of the methods."""
    order = ["pretrain", *methods]
    method = run.read("config.json")["method"]
    return order.index(method) if method in order else len(order)


def main() -> None:
    verb, *arguments = sys.argv[1:]
    {"pack": pack, "unpack": unpack, "collect": collect}[verb](*arguments)


if __name__ == "__main__":
    run_program(main)
