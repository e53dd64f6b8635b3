"""Accuracy: exact counts, for any number of processes."""

import math

import pytest
import torch

from gendd.core.distributed import World
from gendd.evaluation.accuracy import Outputs, Stopwatch, class_groups, evaluate, feature_agreement

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


def batches_of(logits: torch.Tensor, labels: torch.Tensor, size: int):
    for number, first in enumerate(range(0, len(labels), size)):
        yield number, logits[first : first + size], labels[first : first + size]


def test_accuracy_counts_a_last_smaller_batch():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(103, 10, generator=generator), torch.randint(10, (103,), generator=generator)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    expected = [100 * (ranks < k).double().mean().item() for k in (1, 5)]
    outputs = Outputs(("classifier",), lambda images, _: {"classifier": images})
    result = evaluate(outputs, batches_of(logits, labels, 25), ALONE)["classifier"]
    assert [result["top1"], result["top5"]] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("classes", [5, 6])
def test_top5_is_omitted_with_at_most_five_classes(classes):
    outputs = Outputs(("classifier",), lambda images, _: {"classifier": images})
    batches = batches_of(torch.eye(classes), torch.arange(classes), 2)
    assert ("top5" in evaluate(outputs, batches, ALONE)["classifier"]) == (classes > 5)


def test_accuracy_of_groups_and_calibration_by_hand():
    """Two of three images of class 0 are correct, and the only image of class 1."""
    logits = torch.tensor([[2.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 2, 0]])
    groups = {"many": torch.tensor([True, False, False]), "few": torch.tensor([False, True, True])}
    groups["medium"] = ~groups["many"] & ~groups["few"]
    outputs = Outputs(("classifier",), lambda images, _: {"classifier": images})
    batches = batches_of(logits, torch.tensor([0, 0, 0, 1]), 3)
    result = evaluate(outputs, batches, ALONE, groups=groups, calibrated=True)["classifier"]
    # All confidences are e^2 / (e^2 + 2), and three of four images are correct.
    confidence = math.exp(2) / (math.exp(2) + 2)
    expected = {"top1": 75, "many": 200 / 3, "few": 100, "ece": 100 * (confidence - 0.75)}
    assert result == pytest.approx(expected, abs=1e-3)


def test_groups_of_classes_have_their_limits():
    """ImageNet-LT has groups of more than 100 training images, of 20 to 100, and of fewer than 20."""
    groups = {name: members.tolist() for name, members in class_groups(torch.tensor([101, 100, 20, 19])).items()}
    assert groups == {"many": [1, 0, 0, 0], "medium": [0, 1, 1, 0], "few": [0, 0, 0, 1]}
    assert class_groups(torch.tensor([500, 500])) == {}


def test_image_with_several_labels_matches_any_of_them():
    logits = torch.tensor([[3.0, 2, 1, 0, -1, -2], [0.0, 1, 2, 3, 4, 5], [5.0, 4, 3, 2, 1, 0]])
    # The second label of image 1 is first, class 2 of image 2 is fourth, and the label of image 3 is sixth.
    labels = torch.tensor([[4, 0], [0, 2], [5, -1]])
    outputs = Outputs(("classifier",), lambda images, _: {"classifier": images})
    result = evaluate(outputs, batches_of(logits, labels, 2), ALONE)["classifier"]
    assert (result["top1"], result["top5"]) == pytest.approx((100 / 3, 200 / 3), abs=1e-3)


def test_some_classes_restrict_logits_and_not_features():
    values, labels = torch.randn(6, 10), torch.zeros(6, dtype=torch.int64)
    logits = Outputs(("classifier",), lambda images, _: {"classifier": images}).among([7, 2])
    assert torch.equal(logits.compute(values, torch.Generator())["classifier"], values[:, [7, 2]])
    features = Outputs(("head_b",), lambda images, _: {"head_b": images}, lambda images, _: 2 * images).among([7, 2])
    assert evaluate(features, batches_of(values, labels, 4), ALONE)["head_b"]["cosine"] == pytest.approx(100)


def test_sampling_noise_depends_on_seed_and_batch_number():
    def noisy(images, generator):
        seen.append(torch.randn(3, generator=generator))
        return {"head": images}

    logits, labels, runs = torch.randn(20, 3), torch.randint(3, (20,)), []
    for seed in (0, 0, 1):
        seen: list[torch.Tensor] = []
        evaluate(Outputs(("head",), noisy), batches_of(logits, labels, 5), ALONE, seed)
        runs.append(torch.stack(seen))
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert not torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0][0], runs[0][1])


def test_stopwatch_counts_batches_and_keeps_outputs():
    watch = Stopwatch(Outputs(("classifier",), lambda images, noise: {"classifier": images * 2}))
    for _ in range(3):
        images = torch.ones(4, 2)
        torch.testing.assert_close(watch.compute(images, torch.Generator())["classifier"], images * 2)
    summary = watch.summary()
    assert summary["batches"] == 3 and 0 < summary["min"] <= summary["median"] <= summary["max"]


def test_stopwatch_gives_images_per_second_after_a_warm_up(monkeypatch):
    """Batches of 4, 4 and 10 images take 2, 1 and 5 seconds."""
    times, seen = iter([0.0, 2, 10, 11, 20, 25]), []
    monkeypatch.setattr(Stopwatch, "_now", staticmethod(lambda device: next(times)))
    watch = Stopwatch(Outputs(("classifier",), lambda images, noise: seen.append(len(images)) or {}))
    for count in (4, 4, 10):
        watch.compute(torch.ones(count, 2), torch.Generator())
    assert seen == [4, 4, 4, 10]
    assert watch.summary() == {"median": 2, "min": 2, "max": 4, "batches": 3}
    watch.rates.append(3)
    assert watch.summary() == {"median": 2.5, "min": 2, "max": 4, "batches": 4}


def test_feature_agreement_of_known_vectors():
    generated, target = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[6.0, 8.0], [1.0, 0.0]])
    assert feature_agreement(generated, target) == pytest.approx({"cosine": 0.5, "norm": 3.5, "target_norm": 5.5})
