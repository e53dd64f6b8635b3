"""Time a GenDD training step with a teacher cache, compared with one that runs the teacher.

    python bench/teacher_cache.py
    python bench/teacher_cache.py --family gendd_imagenet --teacher beitv2_large --student resnet50 --image-size 224 \
        --batch-size 8 --images 16 --views 1 --rounds 5

Images and weights are random. A step includes the augmentation, the loss, the gradients and the optimizer. Both paths
train copies of one student on the same views and draws, in turns. Filling, checking and reading the cache are timed
separately, and the size of its files is measured.
"""

import argparse
import importlib
import platform
import statistics
import tempfile
import time
from importlib.metadata import version

import torch

from gendd.core.distributed import World, autocast, hardware, resolve_precision
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Normalize
from gendd.distillation.teacher_cache import TeacherCache, open_cache
from gendd.family import Family
from gendd.methods import GenDD
from gendd.runs.experiment import build
from gendd.training.optim import create_optimizer
from gendd_cifar.data import TrainingImages
from gendd_cifar.sources import Images, Source

IMAGENET_IMAGES, CLASSES = 1_281_167, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", default="gendd_cifar")
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=8, help="draws per token, K")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--dense-grid", type=int, default=0, help="side of the grid of the teacher's map; 0: no map")
    parser.add_argument("--cached-maps", default="fp16", help="numbers of the maps, fp16 or int8")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each path, in turns")
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world, precision = World(0, 1, 0, device), resolve_precision("auto", device)
    family = importlib.import_module(f"{arguments.family}.family").FAMILY
    with tempfile.TemporaryDirectory() as folder:
        config = family.config(
            GenDD(dense_grid=arguments.dense_grid),
            teacher=arguments.teacher,
            student=arguments.student,
            image_size=arguments.image_size,
            batch_size=arguments.batch_size,
            repeats=arguments.repeats,
            draw_scheme="shared",
            width=arguments.width,
            epochs=arguments.views,
            teacher_cache=folder,
            cached_views=arguments.views,
            cached_maps=arguments.cached_maps,
        )
        data = random_data(family, config, arguments.images, device)
        size = f"batch {arguments.batch_size}, {arguments.image_size} pixels"
        print(f"{arguments.teacher} > {arguments.student}, {size}")
        versions = f"torch {torch.__version__}, timm {version('timm')}, Python {platform.python_version()}"
        print(f"{hardware(device)}, {precision}; {versions}")
        paths = {name: Trained(family, config, data, device, precision) for name in ("teacher", "cache")}
        task = paths["cache"].task
        begin = time.perf_counter()
        cache = open_cache(config, data, task.teacher, world)
        filling = time.perf_counter() - begin
        task.teacher.cache = cache
        report_cache(cache, filling, world)
        for path in paths.values():
            path.step(0)
        print(f"relative difference of stored and computed features of a batch: {paths['cache'].difference():.3%}")
        for number in range(1, arguments.rounds + 1):
            names = list(paths) if number % 2 else list(paths)[::-1]
            for name in names:
                paths[name].step(number, timed=True)
        report_steps({name: path.seconds for name, path in paths.items()}, config.optimizer.batch_size)


def random_data(family: Family, config, count: int, device: torch.device) -> TrainingImages:
    noise = torch.Generator().manual_seed(0)
    shape = (count, 3, config.data.image_size, config.data.image_size)
    images = Images(torch.randint(256, shape, generator=noise, dtype=torch.uint8), torch.arange(count) % CLASSES)
    plan, names = BatchPlan(config.run.seed, config.optimizer.batch_size), family.zoo
    normalize = Normalize(names.mean, names.std, device)
    return TrainingImages(Source(images, (None,) * CLASSES), plan, normalize, device, cached_views=config.views)


class Trained:
    """A task, its optimizer, and the seconds of its timed steps."""

    def __init__(self, family: Family, config, data: TrainingImages, device: torch.device, precision: str):
        self.data, self.device, self.precision, self.seconds = data, device, precision, []
        self.task = build(family, config, CLASSES, device, precision=precision).task.train()
        self.optimizer = create_optimizer(self.task.trainable_module, config.optimizer, self.task.head, self.task.dense)

    def step(self, number: int, timed: bool = False) -> None:
        number %= self.data.steps_per_epoch * self.data.cached_views
        self.synchronize()
        begin = time.perf_counter()
        batch = next(self.data.batches(range(number, number + 1)))
        with autocast(self.precision, self.device):
            loss = self.task(batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.synchronize()
        if timed:
            self.seconds.append(time.perf_counter() - begin)

    def difference(self) -> float:
        """Return the relative difference of the stored features and the teacher's."""
        teacher, batch = self.task.teacher, next(self.data.batches(range(1)))
        computed, stored = teacher.outputs_of(batch.images), teacher.cache.features(batch).to(batch.images.device)
        return ((stored - computed).norm() / computed.norm()).item()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def report_cache(cache: TeacherCache, filling: float, world: World) -> None:
    """Print the time to fill and check the cache and to read a batch, and its size."""
    features, row = cache.views * cache.data.size, sum(output.rows.row_bytes for output in cache.outputs)
    size = sum(path.stat().st_size for path in cache.folder.iterdir())
    checks, reads = [], []
    for _ in range(5):
        begin = time.perf_counter()
        cache.verify(world)
        checks.append(time.perf_counter() - begin)
    for batch in cache.data.batches(range(min(200, cache.data.steps_per_epoch))):
        begin = time.perf_counter()
        cache.features(batch)
        reads.append(time.perf_counter() - begin)
    rates = [size / seconds / 1e9 for seconds in checks]
    print(f"filled with {features} rows of {row} bytes in {filling:.1f} s: {features / filling:.0f} images/s")
    read = cache.data.plan.batch / statistics.median(reads)
    milliseconds = spread([1e3 * seconds for seconds in reads])
    print(f"checked at {spread(rates)} GB/s; a batch read in {milliseconds} ms, {read:.0f} images/s")
    view = IMAGENET_IMAGES * row / 1e9
    print(f"size {size} bytes, {size / features:.1f} per image; ImageNet would need {view:.2f} GB per view")


def report_steps(seconds: dict[str, list[float]], batch: int) -> None:
    print("\n| features from | seconds per step, median (min-max; n) | images/s, median |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| {name} | {spread(values)} | {batch / statistics.median(values):.1f} |")
    ratios = [plain / cached for plain, cached in zip(seconds["teacher"], seconds["cache"], strict=True)]
    print(f"\nteacher / cache, per step: {spread(ratios)}")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f}; {len(values)})"


if __name__ == "__main__":
    main()
