"""Augmented images/s per core of the input path for small images, compared with torchvision's transforms.

    python bench/input_cifar.py

Both crop with padding 4, flip and normalize 32x32 images in batches of 64. torchvision's transforms process one PIL
image at a time, this project's path one batch at a time. The pixels are random, which does not affect the time. Times
are CPU time of one thread.
"""

import time

import torch
from machine import describe, memory_rate
from measure import record, take_turns

from gendd.core.seeding import BatchPlan
from gendd.data.batch import Normalize
from gendd_cifar.data import TrainingImages
from gendd_cifar.models.zoo import CIFAR100_MEAN, CIFAR100_STD
from gendd_cifar.sources import Images, Source

# Import after gendd, which makes torchvision work with a CPU-only torch.
from torchvision import transforms  # isort: skip

IMAGES, BATCH, PADDING, ROUNDS = 50_000, 64, 4, 7
# Batches per round for each path.
REFERENCE_BATCHES, BATCHES = 20, 200


def records() -> list[dict]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.randint(100, (IMAGES,)))
    pictures = [transforms.functional.to_pil_image(image) for image in pixels[: REFERENCE_BATCHES * BATCH]]
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=PADDING),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(CIFAR100_MEAN, CIFAR100_STD),
        ]
    )
    source = Source(images, (None,) * 100)
    plan = BatchPlan(seed=0, batch=BATCH)
    device = torch.device("cpu")
    data = TrainingImages(source, plan, Normalize(CIFAR100_MEAN, CIFAR100_STD, device), device, PADDING)

    def reference() -> None:
        for first in range(0, len(pictures), BATCH):
            torch.stack([transform(picture) for picture in pictures[first : first + BATCH]])

    def ours() -> None:
        for _ in data.batches(range(BATCHES)):
            pass

    plain, fast = take_turns((reference, ours), ROUNDS, time.process_time)
    torch.set_num_threads(threads)
    rates = [REFERENCE_BATCHES * BATCH / taken for taken in plain], [BATCHES * BATCH / taken for taken in fast]
    ratios = [one / other for one, other in zip(rates[1], rates[0], strict=True)]
    # Counts one byte read and four written per value; the copies in between count as inefficiency.
    achieved = sorted(rates[1])[ROUNDS // 2] * 5 * pixels[0].numel()
    return [record("input/cifar", "images/s per core", *rates, ratios, achieved / memory_rate())]


if __name__ == "__main__":
    print(describe())
    print(*records(), sep="\n")
