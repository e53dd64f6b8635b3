"""Time the head's inference on 10,000 images, compared with the paper's sampler and with the backbone alone.

    python bench/inference.py

The student is resnet20 with a head of width 512: the paper's head with the sampling of checkpoint files (`inference`),
and the default head with its default sampling (`inference_default`). The weights are random, which does not affect the
time. The reference takes 100 guided ancestral steps and 5 samples, in fp32 and the default memory layout. It is timed
on fewer images and scaled, since its time is proportional to their number.
"""

import copy
from functools import partial

import torch
from machine import describe, project_rate, the_device
from measure import record, take_turns
from reference import head_logits as reference_logits
from torch import nn

from gendd.core.distributed import autocast, resolve_precision
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.student import Student
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
    return student.classifier(student.sample(images, **sampling.sampling()))


@torch.no_grad()
def records() -> list[dict]:
    device = the_device()
    precision, classifier = resolve_precision("auto", device), nn.Linear(FEATURES, 100)
    plain = build_student(STUDENT, classifier, width=WIDTH, **PAPER).to(device)
    ours = {"inference": (copy.deepcopy(plain), SamplingOptions(**NOISE_OUTPUT))}
    ours["inference_default"] = build_student(STUDENT, classifier, width=WIDTH).to(device), SamplingOptions()
    few, images = (torch.randn(n, 3, 32, 32, device=device) for n in (REFERENCE_IMAGES[device.type], EVAL_BATCH))
    images = images.to(memory_format=torch.channels_last)
    shape = (len(few), FAMILY.paper["num_samples"], plain.head.num_tokens, plain.head.token_dim)

    def reference() -> None:
        noise = lambda: torch.randn(shape, device=device)  # noqa: E731
        reference_logits(plain, few, FAMILY.paper["sampling_steps"], FAMILY.paper["num_samples"], noise)

    def all_images(read) -> None:
        with autocast(precision, device):
            for _ in range(IMAGES // len(images)):
                read()

    heads = {
        work: partial(head_logits, student.to(memory_format=torch.channels_last), images, sampling)
        for work, (student, sampling) in ours.items()
    }
    alone = partial(ours["inference"][0].backbone, images)
    subset, backbone, *times = take_turns(
        [reference, *(partial(all_images, read) for read in (alone, *heads.values()))], ROUNDS
    )
    whole, limit = [taken * IMAGES / len(few) for taken in subset], project_rate()
    found = []
    for (work, head), taken in zip(heads.items(), times, strict=True):
        share = flops(head) * IMAGES / len(images) / sorted(taken)[ROUNDS // 2] / limit
        found += [
            record(f"{work}/10000", "s", whole, taken, _over(whole, taken), share),
            # Inverted: this ratio is the head's inference time divided by the backbone's.
            record(f"{work}_over_backbone", "s", backbone, taken, _over(taken, backbone), share),
        ]
    return found


def _over(one: list[float], other: list[float]) -> list[float]:
    return [a / b for a, b in zip(one, other, strict=True)]


if __name__ == "__main__":
    print(describe())
    print(*records(), sep="\n")
