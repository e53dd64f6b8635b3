"""Images/s per core of the input path for photographs, compared with timm's transforms.

    python bench/input_imagenet.py FOLDER

Both paths compute the same views of the same photographs in turns; the difference of their pixels is printed too. Times
are CPU time of one thread, which a busy machine disturbs less than wall time. Without FOLDER, scikit-learn's two
photographs are used.
"""

import io
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import tyro
from measure import take_turns
from PIL import Image, features

from gendd.core.distributed import hardware
from gendd.core.errors import UserError, run_program
from gendd.data.decode import as_rgb
from gendd.methods.classification import Classification
from gendd_imagenet.family import FAMILY
from gendd_imagenet.images import EvalView, TrainView, seeded

# Import after gendd, which makes torchvision work with a CPU-only torch.
from timm.data.transforms_factory import transforms_imagenet_eval, transforms_imagenet_train  # isort: skip
from torchvision.transforms.v2.functional import pil_to_tensor, resize  # isort: skip

SIZE, CUBIC, RANDAUGMENT = 224, Image.Resampling.BICUBIC, "rand-m7-n2-mstd0.5"
RECIPES = {
    "training, crop 0.6-1, flip": {},
    "stage 1, crop 0.08-1, flip": {"crop_scale": (0.08, 1.0)},
    "A2, crop 0.08-1, flip, RandAugment": {"crop_scale": (0.08, 1.0), "auto_augment": RANDAUGMENT},
}


@dataclass(frozen=True)
class Config:
    """Images/s per core of the input path for photographs."""

    folder: tyro.conf.Positional[Path | None] = None
    """Folder of JPEG files, at any depth."""
    images: int = 500
    """Number of photographs, evenly spaced in the folder's sorted files."""
    rounds: int = 5
    """Passes of each path over all photographs, after an uncounted one."""


@dataclass
class Way:
    """Work to do on photograph number i, and its milliseconds per image in each round."""

    name: str
    do: Callable[[int], object]
    milliseconds: list[float] = field(default_factory=list)


def main(config: Config) -> None:
    torch.set_num_threads(1)
    photographs = read(config.folder, config.images)
    sides = sorted(side for content in photographs for side in Image.open(io.BytesIO(content)).size)
    print(
        f"{len(photographs)} photographs, sides {sides[0]}-{sides[-1]} pixels (median {statistics.median(sides):.0f}), "
        f"{statistics.mean(map(len, photographs)) / 1000:.0f} kB on average; views of {SIZE} pixels, bicubic"
    )
    print(
        f"{hardware(torch.device('cpu'))}; Python {platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{version('torchvision')}, timm {version('timm')}, Pillow {version('pillow')} "
        f"(libjpeg-turbo {features.version('libjpeg_turbo')})"
    )
    print(f"Median (min-max) of {config.rounds} rounds, CPU time of one thread; mean difference in levels of 255\n")
    print("| view | path | ms per image | images/s per core | ratio per round | difference |\n" + "|---" * 6 + "|")
    for name, timms, ours in views(photographs):
        ways = Way("timm's transforms", timms), Way("ours", ours)
        time_each(ways, len(photographs), config.rounds)
        ratios = [one / other for one, other in zip(*(way.milliseconds for way in ways), strict=True)]
        difference = statistics.mean(mean_difference(timms(i), ours(i)) for i in range(len(photographs)))
        for way, rest in zip(ways, ("| ", f"{spread(ratios)} | {difference:.3f}"), strict=True):
            rates = [1000 / milliseconds for milliseconds in way.milliseconds]
            print(f"| {name} | {way.name} | {spread(way.milliseconds)} | {spread(rates, 0)} | {rest} |", flush=True)
    print("\n| stage | ms per image |\n|---|---|")
    for ways in stages(photographs):
        time_each(ways, len(photographs), config.rounds)
        for way in ways:
            print(f"| {way.name} | {spread(way.milliseconds)} |", flush=True)


def read(folder: Path | None, count: int) -> list[bytes]:
    if folder is None:
        return [files("sklearn.datasets.images").joinpath(name).read_bytes() for name in ("china.jpg", "flower.jpg")]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    taken = [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]
    # Keep only modes that every decoder can read.
    photographs = [content for content in taken if Image.open(io.BytesIO(content)).mode in ("RGB", "L")]
    if not photographs:
        raise UserError(f"{folder}: holds no .jpg or .jpeg files; name a folder of photographs")
    return photographs


def views(photographs: list[bytes]) -> Iterator[tuple[str, Callable, Callable]]:
    """Yield the name of each recipe's view, timm's function for it and the input path's function."""
    for name, flags in RECIPES.items():
        config = FAMILY.config(Classification(), image_size=SIZE, interpolation="bicubic", **flags)
        ours = TrainView(config)
        timms = transforms_imagenet_train(
            SIZE,
            scale=config.data.crop_scale,
            color_jitter=None,
            auto_augment=config.data.auto_augment,
            interpolation="bicubic",
            normalize=False,
        )

        def reference(i: int, timms=timms) -> torch.Tensor:
            with seeded(0, i):
                return timms(decode(photographs[i]))

        yield name, reference, lambda i, ours=ours: ours(photographs[i], 0, i)
    timms = transforms_imagenet_eval(SIZE, 0.875, interpolation="bicubic", normalize=False)
    ours = EvalView(SIZE, 0.875, "bicubic")
    yield "evaluation", lambda i: timms(decode(photographs[i])), lambda i: ours(photographs[i])


def stages(photographs: list[bytes]) -> Iterator[list[Way]]:
    """Yield each stage of the input path with its alternatives."""
    yield [Way("decode: Pillow, ours", lambda i: decode(photographs[i])), *other_decoders(photographs)]
    squares = [decode(content).resize((2 * SIZE, 2 * SIZE)) for content in photographs]
    yield [
        Way(f"resize from {2 * SIZE} pixels: Pillow", lambda i: squares[i].resize((SIZE, SIZE), CUBIC)),
        Way(
            f"resize from {2 * SIZE} pixels: torchvision on uint8, ours",
            lambda i: resize(pil_to_tensor(squares[i]), [SIZE, SIZE], CUBIC),
        ),
    ]
    randaugment = TrainView(FAMILY.config(Classification(), image_size=SIZE, hflip=0, auto_augment=RANDAUGMENT)).augment
    pixels = [pil_to_tensor(square.resize((SIZE, SIZE))) for square in squares]

    def augment(i: int) -> torch.Tensor:
        with seeded(0, i):
            return randaugment(pixels[i])

    yield [Way(f"{RANDAUGMENT} of {SIZE} pixels", augment)]


def other_decoders(photographs: list[bytes]) -> Iterator[Way]:
    """Yield the installed decoders other than Pillow."""
    with suppress(ImportError):
        import simplejpeg

        yield Way(
            f"decode: simplejpeg {version('simplejpeg')}", lambda i: simplejpeg.decode_jpeg(photographs[i], "RGB")
        )
    with suppress(ImportError):
        import cv2

        cv2.setNumThreads(1)
        yield Way(
            f"decode: OpenCV {cv2.__version__}",
            lambda i: cv2.imdecode(np.frombuffer(photographs[i], np.uint8), cv2.IMREAD_COLOR_RGB),
        )


def decode(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return as_rgb(image)


def time_each(ways: Sequence[Way], count: int, rounds: int) -> None:
    works = [lambda way=way: [way.do(i) for i in range(count)] for way in ways]
    for way, taken in zip(ways, take_turns(works, rounds, time.process_time), strict=True):
        way.milliseconds = [1000 * seconds / count for seconds in taken]


def mean_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one.float() - other.float()).abs().mean().item()


def spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low}-{high})"


if __name__ == "__main__":
    run_program(lambda: main(tyro.cli(Config)))
