"""Estimate the cost of each ImageNet recipe on H100-class GPUs: an epoch on 8, by part, and a step on up to 256.

    python bench/on_paper.py

The tables stand in docs/scaling.md.
Operations and bytes per image are counted from shapes (the meta device). torch's counter counts matrix products and
convolutions. Bytes are everything that the eager program's operations read and write in bf16; fusion can only lower
them. The time is the larger of both at the rates below. The head "before" is the reference of reference.py with the
paper's K; "after" is the project's head with the default draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from reference import head_loss
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gendd.core.ranges import field_values
from gendd.diffusion.draws import Draws
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.diffusion.options import HeadOptions
from gendd.methods import GenDD
from gendd.networks.cost import parameter_count
from gendd.networks.create import create_network
from gendd.networks.features import feature_width, pooled_feature
from gendd_imagenet.family import FAMILY

IMAGES = 1_281_167
# Assumptions: 8 GPUs (dense bf16 peak and memory rate of an H100 SXM), the share of both that a program reaches, the
# cores for decoding. bench/input_imagenet.py measured the images per core.
GPUS, PEAK, MEMORY, REACHED, CORES = 8, 989e12, 3.35e12, 0.5, 96
PLAIN_INPUT, RANDAUGMENT_INPUT = 674, 448
BATCH = 512
# A step on several machines: bus bandwidth within a machine, and across machines with a 400 Gb/s adapter per GPU,
# measured with nccl-tests by others (docs/scaling.md names them); the seconds that a message to another machine and an
# operation on the GPU take to start.
NVLINK, NETWORK, MESSAGE, LAUNCH = 476e9, 8 * 47e9, 70e-6, 5e-6
SIZES = (8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Recipe:
    teacher: str
    student: str
    epochs: int
    images_per_core: float

    @property
    def name(self) -> str:
        return f"{self.teacher} > {self.student}"


RECIPES = (
    Recipe("resnet34", "resnet18", 100, PLAIN_INPUT),
    Recipe("resnet50", "mobilenetv1", 100, PLAIN_INPUT),
    Recipe("beitv2_base", "resnet50", 300, RANDAUGMENT_INPUT),
    Recipe("beitv2_large", "resnet50", 300, RANDAUGMENT_INPUT),
)


@dataclass(frozen=True)
class Cost:
    """Floating-point operations and bytes per image, and operations started per step."""

    flops: float = 0
    bytes: float = 0
    started: int = 0

    def seconds(self) -> float:
        """Return the seconds of an epoch on all GPUs."""
        return IMAGES / GPUS * max(self.flops / PEAK, self.bytes / MEMORY) / REACHED

    def step(self, images: float, launch: float) -> float:
        """Return the seconds of a step on a GPU with that many images, where starting an operation takes `launch`."""
        return max(images * max(self.flops / PEAK, self.bytes / MEMORY) / REACHED, self.started * launch)


class ByteCounter(TorchDispatchMode):
    """Counts operations, without views, and the bytes that they read and write."""

    def __init__(self):
        super().__init__()
        self.bytes = self.started = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if not function.is_view:
            tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
            self.started += 1
        return result


def count(work: Callable[[], object], images: int) -> Cost:
    with FlopCounterMode(display=False) as flops, ByteCounter() as counter:
        work()
    return Cost(flops.get_total_flops() / images, counter.bytes / images, counter.started)


def exchanged_bytes(parameters: int, gpus: int) -> float:
    """Return the bytes that a GPU sends in a ring all-reduce: its float32 gradients, almost twice."""
    return 2 * (gpus - 1) / gpus * 4 * parameters


def exchange_seconds(parameters: int, gpus: int) -> float:
    """Return the seconds of an all-reduce of gradients: over NVLink in a machine of 8, over the network beyond.

    A message to another machine starts log2(machines) times, as in NCCL's tree.
    """
    machines = gpus / GPUS
    return exchanged_bytes(parameters, gpus) / (NETWORK if machines > 1 else NVLINK) + MESSAGE * math.log2(machines)


def print_steps(name: str, parts: list[Cost], parameters: int) -> None:
    """Print the rows of a recipe: a step at a fixed batch, and at a fixed number of images per GPU."""
    rows = {
        "batch 512": (True, LAUNCH),
        "batch 512, CUDA graphs": (True, 0.0),
        "64 images per GPU": (False, LAUNCH),
    }
    for title, (fixed, launch) in rows.items():
        cells, alone = [], 0.0
        for gpus in SIZES:
            images = BATCH / (gpus if fixed else GPUS)
            work = sum(part.step(images, launch) for part in parts)
            exchange = exchange_seconds(parameters, gpus)
            rate = images / (work + exchange)
            alone = alone or rate
            bold = "**" if exchange > work else ""
            cells.append(f"{1e3 * work:.1f} + {bold}{1e3 * exchange:.1f}{bold}: {rate / alone:.0%}")
        print(f"| {name} | {title} | {' | '.join(cells)} |")
        name = ""


def network(name: str) -> nn.Module:
    return create_network(name, FAMILY.zoo, 1000, 224).to("meta", torch.bfloat16)


def forward(model: nn.Module, images: int) -> Cost:
    with torch.no_grad():
        return count(lambda: pooled_feature(model.eval(), _of(images, 3, 224, 224)), images)


def train(model: nn.Module, images: int) -> Cost:
    return count(lambda: pooled_feature(model.train(), _of(images, 3, 224, 224)).sum().backward(), images)


def head_costs(feature_dim: int, cond_dim: int, images: int) -> tuple[Cost, Cost, int]:
    """Return the costs of loss and gradients of the paper's and the default head, and the latter's parameters."""
    costs = []
    for repeats, plain in ((FAMILY.paper["repeats"], True), (GenDD.repeats, False)):
        settings = {**PAPER, "repeats": repeats} if plain else field_values(GenDD(), HeadOptions)
        head = SplitTokenHead(feature_dim, cond_dim, **settings).to("meta", torch.bfloat16)
        z, target = _of(images, cond_dim).requires_grad_(), _of(images, feature_dim)
        shape = (images, head.num_tokens, repeats, 1)
        t = torch.zeros(shape if plain else (1, 1, repeats, 1), dtype=torch.int64, device="meta")
        draws = Draws(_of(*shape, head.token_dim), t, _of(1, 1, 1, 1), t.bool() if plain else None)

        def loss(head=head, z=z, target=target, draws=draws, plain=plain) -> None:
            # The head's custom gradients disable autocast, which fails on the meta device. Use autograd instead.
            with patch("torch.compiler.is_compiling", return_value=True):
                (head_loss(head, z, target, draws) if plain else head(z, target.float(), draws)["loss"]).backward()

        costs.append(count(loss, images))
    return *costs, parameter_count(head)


def _of(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16)


def main() -> None:
    print(
        "| recipe, epochs | part | GFLOP per image | MB per image | s per epoch |\n|---|---|---|---|---|",
    )
    hours, steps = [], []
    for recipe in RECIPES:
        teacher, student = network(recipe.teacher), network(recipe.student)
        images = BATCH // GPUS
        plain, ours, head_parameters = head_costs(feature_width(teacher), feature_width(student), images)
        parts = {"teacher": forward(teacher, images), "student": train(student, images)}
        parts |= {"head, before": plain, "head, after": ours}
        trained = parameter_count(student) + head_parameters
        exchange = exchange_seconds(trained, GPUS) * IMAGES / BATCH
        decoding = IMAGES / recipe.images_per_core / CORES
        print(f"| {recipe.name}, {recipe.epochs} | input | | | {decoding:.0f} |")
        for name, cost in parts.items():
            print(f"| | {name} | {cost.flops / 1e9:.1f} | {cost.bytes / 1e6:.0f} | {cost.seconds():.0f} |")
        print(f"| | all-reduce of gradients | | {exchanged_bytes(trained, GPUS) / BATCH / 1e6:.2f} | {exchange:.0f} |")
        both = parts["student"].seconds() + exchange
        totals = {
            "before": both + parts["teacher"].seconds() + plain.seconds(),
            "after": both + parts["teacher"].seconds() + ours.seconds(),
            "after, teacher cached": both + ours.seconds(),
        }
        hours.append((recipe, decoding, totals))
        steps.append((recipe.name, [parts["teacher"], parts["student"], ours], trained))
    names = list(hours[0][2])
    titles = [f"{name}: s per epoch, GPU hours of the run" for name in names]
    print(f"\n| recipe | {' | '.join(titles)} | input: s per epoch |")
    print("|---" * (len(names) + 2) + "|")
    for recipe, decoding, totals in hours:
        cells = [
            f"{seconds:.0f}, {max(seconds, decoding) * recipe.epochs * GPUS / 3600:.0f}" for seconds in totals.values()
        ]
        print(f"| {recipe.name} | {' | '.join(cells)} | {decoding:.0f} |")
    print(f"\n| recipe | step | {' | '.join(f'{size} GPUs' for size in SIZES)} |")
    print("|---" * (len(SIZES) + 2) + "|")
    for step in steps:
        print_steps(*step)


if __name__ == "__main__":
    main()
