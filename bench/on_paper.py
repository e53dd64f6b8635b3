"""Estimate the cost of an epoch of each ImageNet recipe on 8 H100-class GPUs, by part: docs/scaling.md.

    python bench/on_paper.py

Operations and bytes per image are counted from shapes (the meta device). torch's counter counts matrix products and
convolutions. Bytes are everything that the eager program's operations read and write in bf16; fusion can only lower
them. The time is the larger of both at the rates below. The head "before" is the reference of reference.py with the
paper's K; "after" is the project's head with the default draws.
"""

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from reference import head_loss
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gendd.diffusion.draws import Draws
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.methods import GenDD
from gendd.networks.cost import parameter_count
from gendd.networks.create import create_network
from gendd.networks.features import feature_width, pooled_feature
from gendd_imagenet.family import FAMILY

IMAGES = 1_281_167
# Assumptions: 8 GPUs (dense bf16 peak and memory rate of an H100 SXM), the share of both that a program reaches, the
# all-reduce rate per GPU, and the cores for decoding. bench/input_imagenet.py measured the images per core.
GPUS, PEAK, MEMORY, REACHED, EXCHANGE, CORES = 8, 989e12, 3.35e12, 0.5, 200e9, 96
PLAIN_INPUT, RANDAUGMENT_INPUT = 674, 448
BATCH = 512


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
    """Operations and bytes per image."""

    flops: float = 0
    bytes: float = 0

    def seconds(self) -> float:
        """Return the seconds of an epoch on all GPUs."""
        return IMAGES / GPUS * max(self.flops / PEAK, self.bytes / MEMORY) / REACHED


class ByteCounter(TorchDispatchMode):
    """Counts the bytes that operations read and write, without views."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if not function.is_view:
            tensors = [leaf for leaf in tree_leaves((arguments, keywords, result)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result


def count(work: Callable[[], object], images: int) -> Cost:
    with FlopCounterMode(display=False) as flops, ByteCounter() as counter:
        work()
    return Cost(flops.get_total_flops() / images, counter.bytes / images)


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
        settings = {**PAPER, "repeats": repeats} if plain else GenDD().head()
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
    hours = []
    for recipe in RECIPES:
        teacher, student = network(recipe.teacher), network(recipe.student)
        images = BATCH // GPUS
        plain, ours, head_parameters = head_costs(feature_width(teacher), feature_width(student), images)
        parts = {"teacher": forward(teacher, images), "student": train(student, images)}
        parts |= {"head, before": plain, "head, after": ours}
        # In a ring all-reduce each GPU sends the float32 gradients almost twice.
        sent = 2 * (GPUS - 1) / GPUS * 4 * (parameter_count(student) + head_parameters)
        exchange = sent / EXCHANGE * IMAGES / BATCH
        decoding = IMAGES / recipe.images_per_core / CORES
        print(f"| {recipe.name}, {recipe.epochs} | input | | | {decoding:.0f} |")
        for name, cost in parts.items():
            print(f"| | {name} | {cost.flops / 1e9:.1f} | {cost.bytes / 1e6:.0f} | {cost.seconds():.0f} |")
        print(f"| | all-reduce of gradients | | {sent / BATCH / 1e6:.2f} | {exchange:.0f} |")
        both = parts["student"].seconds() + exchange
        totals = {
            "before": both + parts["teacher"].seconds() + plain.seconds(),
            "after": both + parts["teacher"].seconds() + ours.seconds(),
            "after, teacher cached": both + ours.seconds(),
        }
        hours.append((recipe, decoding, totals))
    names = list(hours[0][2])
    titles = [f"{name}: s per epoch, GPU hours of the run" for name in names]
    print(f"\n| recipe | {' | '.join(titles)} | input: s per epoch |")
    print("|---" * (len(names) + 2) + "|")
    for recipe, decoding, totals in hours:
        cells = [
            f"{seconds:.0f}, {max(seconds, decoding) * recipe.epochs * GPUS / 3600:.0f}" for seconds in totals.values()
        ]
        print(f"| {recipe.name} | {' | '.join(cells)} | {decoding:.0f} |")


if __name__ == "__main__":
    main()
