"""Comparison of an exported file with the original on the same images: numbers, size and speed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendd.core.errors import UserError
from gendd.evaluation.accuracy import Outputs, Stopwatch

Function = Callable[[Tensor], Tensor]
# Number of images in a batch -> number of timed calls. The median is reported.
TIMED = {1: 20, 64: 5}
# Largest difference, as a share of the greatest number. Another order of float32 sums changes about 1e-6 of it.
MOST_DIFFERENCE = 1e-3
# Least mean cosine of int8 results and the original's.
LEAST_COSINE = 0.9


@dataclass(frozen=True)
class Agreement:
    """The agreement of two results for the same N images.

    Args:
        images: N.
        difference: greatest absolute difference of two numbers.
        greatest: greatest absolute number of the original.
        cosine: mean cosine over the images.
        top1: share of images with the same most likely class, in percent; None for features.
    """

    images: int
    difference: float
    greatest: float
    cosine: float
    top1: float | None

    @classmethod
    def of(cls, original: Tensor, exported: Tensor, is_logits: bool) -> "Agreement":
        """Compare results (N, ...)."""
        alike = torch.cosine_similarity(original.flatten(1).double(), exported.flatten(1).double())
        same = (original.argmax(-1) == exported.argmax(-1)).double().mean().item() * 100 if is_logits else None
        difference = (original - exported).abs().max().item()
        return cls(len(original), difference, original.abs().max().item(), alike.mean().item(), same)

    def check(self, file: Path, exact: bool) -> None:
        """Check that the results agree. NaN does not.

        Args:
            exact: False for int8.

        Raises:
            UserError: they do not.
        """
        if exact and not self.difference <= MOST_DIFFERENCE * self.greatest:
            found = f"differ by up to {self.difference:.2g}, with numbers up to {self.greatest:.2g}"
            remedy = "report this as a bug, with the run's config.json"
        elif not exact and not self.cosine >= LEAST_COSINE:
            found = f"have a mean cosine of {self.cosine:.3f}, below {LEAST_COSINE}"
            remedy = "give more `calibration_images`, or choose `to` onnx"
        else:
            return
        raise UserError(
            f"{file}: not written, its results on {self.images} images and the original's {found}; {remedy}"
        )


def results(function: Function, batches: Iterable[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Return the results (N, ...) of a function for all images of the batches."""
    with torch.inference_mode():
        return torch.cat([function(images) for _, images, _ in batches])


def speeds(functions: Mapping[str, Function], images: Tensor) -> dict[str, dict[str, Any]]:
    """Return the speed of functions of images, which take turns.

    Args:
        images: (B, 3, S, S), repeated for larger batches.

    Returns:
        {name: {"latency_ms": of one image, "images_per_second": in batches}}, each with median, min and max.
    """
    rates: dict[str, list[dict[str, float]]] = {name: [] for name in functions}
    for batch, calls in TIMED.items():
        given = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch]
        watches = {name: Stopwatch(_timed(function)) for name, function in functions.items()}
        for _ in range(calls):
            for watch in watches.values():
                watch.compute(given, torch.Generator())
        for name, watch in watches.items():
            rates[name].append(watch.summary())
    return {name: {"latency_ms": _latency(one), "images_per_second": many} for name, (one, many) in rates.items()}


def _timed(function: Function) -> Outputs:
    return Outputs(("output",), torch.inference_mode()(lambda images, _: {"output": function(images)}))


def _latency(rate: Mapping[str, float]) -> dict[str, float]:
    """Return the milliseconds per image for a rate in images per second."""
    times = {"median": rate["median"], "min": rate["max"], "max": rate["min"]}
    return {name: 1000 / value for name, value in times.items()} | {"batches": rate["batches"]}
