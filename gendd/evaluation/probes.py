"""Classifiers on frozen features: nearest neighbors, linear probes and zero-shot class vectors.

Shapes: N training images, M test images, D dimensions, C classes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.errors import InvalidValue
from gendd.core.seeding import generator

# From DINO (Caron et al., 2021).
NEIGHBORS, TEMPERATURE = 20, 0.07
# Candidate L2 penalties of the linear probe, compared on a tenth of the training images.
PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
VALIDATION = 0.1
# From the paper's release (arXiv 2507.14503), for large data sets.
SGD_RATE, SGD_EPOCHS, SGD_BATCH, TEACHER_SHARE = 30.0, 100, 512, 0.5


def knn_shares(
    train: Tensor, labels: Tensor, test: Tensor, num_classes: int, k: int = NEIGHBORS, temperature: float = TEMPERATURE
) -> Tensor:
    """Return the share (M, C) of each class in the votes of the k nearest training images.

    A neighbor with cosine s has the weight exp(s / temperature). The shares of a test image sum to one.

    Args:
        train: (N, D) features of training images.
        labels: (N,) their classes.
        test: (M, D) features of test images.

    Raises:
        InvalidValue: there are fewer than k training images.
    """
    if k > len(train):
        raise InvalidValue(k, f"more than the {len(train)} training images; lower it")
    train, test = F.normalize(train, dim=-1), F.normalize(test, dim=-1)
    votes = []
    for part in test.split(1024):
        alike, nearest = (part @ train.T).topk(k, dim=-1)
        weights = ((alike - alike[:, :1]) / temperature).exp()
        shares = weights / weights.sum(-1, keepdim=True)
        votes.append(shares.new_zeros(len(part), num_classes).scatter_add_(1, labels[nearest], shares))
    return torch.cat(votes)


# Examples to fit a classifier to: one for the penalty, and two for a standard deviation.
FEWEST = 3


class LinearProbe(nn.Module):
    """A linear classifier on standardized features (B, D)."""

    def __init__(self, train: Tensor, num_classes: int):
        super().__init__()
        std, mean = torch.std_mean(train, dim=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp(min=1e-6))
        self.linear = nn.Linear(train.shape[1], num_classes, device=train.device)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear((features - self.mean) / self.std)


def fit_by_lbfgs(train: Tensor, labels: Tensor, num_classes: int) -> tuple[LinearProbe, float]:
    """Fit a linear classifier by L-BFGS on all images at once; return it and its L2 penalty.

    The penalty is the best of `PENALTIES` on a tenth of the training images. The classifier is then fitted to all.

    Raises:
        InvalidValue: there are too few training images.
    """
    if len(train) < FEWEST:
        raise InvalidValue("", f"{len(train)} examples with a class to fit a classifier to; give at least {FEWEST}")
    order = torch.randperm(len(train), generator=generator("cpu", "probe")).to(train.device)
    held = order[: max(1, round(VALIDATION * len(order)))]
    rest = order[len(held) :]
    best = max(PENALTIES, key=lambda penalty: _top1(_fitted(train[rest], labels[rest], num_classes, penalty),
                                                    train[held], labels[held]))  # fmt: skip
    return _fitted(train, labels, num_classes, best), best


def _fitted(train: Tensor, labels: Tensor, num_classes: int, penalty: float) -> LinearProbe:
    probe = LinearProbe(train, num_classes)
    optimizer = torch.optim.LBFGS(probe.parameters(), max_iter=200, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(probe(train), labels) + penalty * probe.linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return probe.requires_grad_(False)


def _top1(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    return (probe(features).argmax(-1) == labels).double().mean().item()


def fit_by_sgd(train: Tensor, targets: Tensor, num_classes: int) -> LinearProbe:
    """Fit a linear classifier by SGD, as the paper's authors do on ImageNet.

    The learning rate is 30 with a cosine schedule, for 100 epochs of batches of 512 without weight decay.

    Args:
        targets: (N,) classes, or (N, C) probabilities.
    """
    probe, batch = LinearProbe(train, num_classes), min(SGD_BATCH, len(train))
    steps = SGD_EPOCHS * (len(train) // batch)
    optimizer = torch.optim.SGD(probe.parameters(), SGD_RATE, momentum=0.9)
    for step in range(steps):
        if step % (len(train) // batch) == 0:
            order = torch.randperm(len(train), generator=generator("cpu", "probe", step)).to(train.device)
        optimizer.param_groups[0]["lr"] = SGD_RATE * (1 + math.cos(math.pi * step / steps)) / 2
        rows = order[step % (len(train) // batch) * batch :][:batch]
        optimizer.zero_grad()
        F.cross_entropy(probe(train[rows]), targets[rows]).backward()
        optimizer.step()
    return probe.requires_grad_(False)


def zero_shot_logits(features: Tensor, vectors: Tensor, bias: Tensor | None = None, cosine: bool = False) -> Tensor:
    """Return the similarity (M, C) of features (M, D) and class vectors (C, D): cosine, or dot product plus bias.

    Raises:
        InvalidValue: the shape of the vectors or biases does not fit, or a value is not finite.
    """
    if vectors.dim() != 2 or vectors.shape[1] != features.shape[1]:
        raise InvalidValue(
            "", f"holds vectors of shape {tuple(vectors.shape)}, the features have {features.shape[1]} numbers"
        )
    if bias is not None and bias.shape != vectors.shape[:1]:
        raise InvalidValue(
            "", f"holds biases of shape {tuple(bias.shape)} for {len(vectors)} vectors; give one for each"
        )
    if not all(values.isfinite().all() for values in (vectors, bias) if values is not None):
        raise InvalidValue("", "holds values that are not finite; write it again without NaN and infinity")
    if cosine:
        return F.normalize(features, dim=-1) @ F.normalize(vectors, dim=-1).T
    return F.linear(features, vectors, bias)
