"""Images/s of a GenDD training step beside the plain reference path, in one run.

    python bench/train_step.py

resnet32x4 > resnet8x4, batch 64, K = 30, width 1024, random images. Both paths train copies of one student on the
same draws, taking turns; the loss of both is compared first.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from reference import step_loss

from gendd.config import TrainConfig
from gendd.distributed import autocast, hardware, resolve_precision
from gendd.methods import Ingredients, get_method
from gendd.networks import create_network
from gendd.randomness import BatchPlan
from gendd.teacher import FrozenTeacher
from gendd_cifar.tree import TREE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="resnet32x4")
    parser.add_argument("--student", default="resnet8x4")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=30, help="K")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each path, in turns")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device("cpu")
    precision = resolve_precision("auto", device)
    config = TrainConfig(batch_size=arguments.batch_size, repeats=arguments.repeats, width=arguments.width)
    teacher, student = (
        create_network(flag, name, TREE.names, num_classes=100, image_size=32)
        for flag, name in (("--teacher", arguments.teacher), ("--student", arguments.student))
    )
    plain_teacher = copy.deepcopy(teacher).eval()
    frozen = FrozenTeacher(teacher, student, device, precision)
    task = get_method("gendd").build(Ingredients(config, student, frozen, {}, device))
    plain_student = copy.deepcopy(task.trainable_module)
    task = task.to(memory_format=torch.channels_last).train()

    images, labels = torch.randn(config.batch_size, 3, 32, 32), torch.randint(100, (config.batch_size,))
    fast_images = images.to(memory_format=torch.channels_last)
    task.random = next(BatchPlan(0, config.batch_size).parts(0))

    def reference_loss() -> torch.Tensor:
        draws = task.head.draw(config.batch_size, task.random.generator("diffusion", device))
        return step_loss(
            plain_student, plain_teacher, images, labels, config.contraction, task.mixup_share(device), draws
        )

    def fast_loss() -> torch.Tensor:
        with autocast(precision, device):
            return task(fast_images, labels)["loss"]

    paths = {
        "reference": Path(reference_loss, torch.optim.AdamW(plain_student.parameters(), lr=1e-3, foreach=False)),
        "gendd": Path(fast_loss, torch.optim.AdamW(task.trainable_module.parameters(), lr=1e-3, fused=True)),
    }
    losses = {name: path.loss().item() for name, path in paths.items()}
    for path in paths.values():
        path.step()
    for _ in range(arguments.rounds):
        for path in paths.values():
            path.step(timed=True)

    print(
        f"{arguments.teacher} > {arguments.student}, batch {config.batch_size}, K {config.repeats}, "
        f"width {config.width}"
    )
    print(f"{hardware(device)}; torch {torch.__version__}, timm {version('timm')}, Python {platform.python_version()}")
    print(
        f"loss at the same weights and draws: reference {losses['reference']:.5f}, "
        f"gendd ({precision}) {losses['gendd']:.5f}"
    )
    print("\n| path | images/s, median (min-max) | seconds a step, median | steps |\n|---|---|---|---|")
    for name, path in paths.items():
        rates = sorted(config.batch_size / seconds for seconds in path.seconds)
        median = statistics.median(path.seconds)
        rate = f"{config.batch_size / median:.1f} ({rates[0]:.1f}-{rates[-1]:.1f})"
        print(f"| {name} | {rate} | {median:.3f} | {len(rates)} |")
    ratios = sorted(a / b for a, b in zip(paths["reference"].seconds, paths["gendd"].seconds, strict=True))
    print(f"\nratio, pair by pair: median {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})")


class Path:
    """A way to compute the loss, its optimiser, and the seconds its steps took."""

    def __init__(self, loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer):
        self.loss, self.optimizer, self.seconds = loss, optimizer, []

    def step(self, timed: bool = False) -> None:
        begin = time.perf_counter()
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if timed:
            self.seconds.append(time.perf_counter() - begin)


if __name__ == "__main__":
    main()
