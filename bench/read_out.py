"""Time the head's inference on 10,000 images, compared with the paper's sampler and with the backbone alone.

    python bench/read_out.py

The student is resnet20 with a head of width 512. The weights are random, which does not affect the time. The
reference takes 100 guided ancestral steps and 5 samples, in fp32 and the default memory layout. It is timed on fewer
images and scaled, since its time is proportional to their number.
"""

import copy
from dataclasses import asdict

import torch
from machine import describe, matrix_rate, the_device
from measure import record, take_turns
from reference import read_out as reference_read_out
from torch import nn

from gendd.core.distributed import autocast, resolve_precision
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distill.student import Student
from gendd.methods.options import NOISE_OUTPUT, SamplingOptions
from gendd.networks.cost import flops
from gendd.networks.create import create_network
from gendd.networks.features import feature_width
from gendd_cifar.data import EVAL_BATCH
from gendd_cifar.family import FAMILY

STUDENT, FEATURES, WIDTH = "resnet20", 64, 512
IMAGES, ROUNDS = 10_000, 5
# Images per round for the reference.
REFERENCE_IMAGES = {"cpu": 25, "cuda": 1000}


def build_student(name: str, classifier: nn.Linear, **head) -> Student:
    """Build a student with random weights, in eval mode, for the input features of a teacher's classifier."""
    network = create_network(name, FAMILY.zoo, classifier.out_features, image_size=32)
    built = SplitTokenHead(classifier.in_features, feature_width(network), **head)
    return Student(network, built, classifier).eval().requires_grad_(False)


def head_logits(student: Student, images: torch.Tensor, sampling: SamplingOptions) -> torch.Tensor:
    """Return the head's logits, without the linear probe, as the evaluate program times them."""
    return student.classifier(student.sample(images, **asdict(sampling)))


@torch.no_grad()
def records() -> list[dict]:
    device = the_device()
    precision, sampling = resolve_precision("auto", device), SamplingOptions(**NOISE_OUTPUT)
    plain = build_student(STUDENT, nn.Linear(FEATURES, 100), width=WIDTH, **PAPER).to(device)
    student = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    few, images = (torch.randn(n, 3, 32, 32, device=device) for n in (REFERENCE_IMAGES[device.type], EVAL_BATCH))
    images = images.to(memory_format=torch.channels_last)
    shape = (len(few), FAMILY.paper["num_samples"], plain.head.num_tokens, plain.head.token_dim)

    def reference() -> None:
        noise = lambda: torch.randn(shape, device=device)  # noqa: E731
        reference_read_out(plain, few, FAMILY.paper["sampling_steps"], FAMILY.paper["num_samples"], noise)

    def all_images(read) -> None:
        with autocast(precision, device):
            for _ in range(IMAGES // len(images)):
                read()

    head = lambda: head_logits(student, images, sampling)  # noqa: E731
    works = (reference, lambda: all_images(head), lambda: all_images(lambda: student.backbone(images)))
    subset, ours, backbone = take_turns(works, ROUNDS)
    whole = [taken * IMAGES / len(few) for taken in subset]
    rate = flops(head) * IMAGES / len(images) / sorted(ours)[ROUNDS // 2]
    share = rate / matrix_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
    return [
        record("read_out/10000", "s", whole, ours, _over(whole, ours), share),
        # Inverted: this ratio is the head's inference time divided by the backbone's.
        record("read_out_over_backbone", "s", backbone, ours, _over(ours, backbone), share),
    ]


def _over(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    print(describe())
    print(*records(), sep="\n")
