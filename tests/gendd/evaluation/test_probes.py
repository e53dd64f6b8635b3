"""Scores of features, compared with scikit-learn and with arithmetic written here."""

import math

import numpy as np
import pytest
import torch
from lines import refuses
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from gendd.core.distributed import World
from gendd.core.errors import naming
from gendd.evaluation import probes
from gendd.evaluation.accuracy import CalibrationCounter, feature_scores, nearest
from gendd.evaluation.probes import LinearProbe, fit_by_lbfgs, fit_by_sgd, knn_shares, zero_shot_logits
from gendd.evaluation.scores import neighbors_by_chance, score_title
from gendd.programs.probed_features import ProbedFeatures
from gendd.programs.probes import Outcome

ALONE = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def digits():
    """Return noisy pixels as features, with classes, of training and test images."""
    data = load_digits()
    noise = torch.randn(1797, 64, generator=torch.Generator().manual_seed(0))
    features = torch.from_numpy(data.data).float() + 3 * noise
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(1))
    labels = torch.from_numpy(data.target)[order]
    return features[order][:1200], labels[:1200], features[order][1200:], labels[1200:]


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (7, 1.0)])
def test_knn_equals_scikit_learn_on_every_image(digits, k, temperature):
    train, labels, test, _ = digits
    theirs = KNeighborsClassifier(k, weights=lambda apart: np.exp((1 - apart) / temperature), metric="cosine")
    theirs.fit(train.double().numpy(), labels.numpy())
    ours = knn_shares(train.double(), labels, test.double(), 10, k, temperature)
    assert (ours.argmax(-1).numpy() == theirs.predict(test.double().numpy())).all()
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(test.double().numpy()), atol=1e-8)


def test_knn_refuses_more_neighbors_than_images(digits):
    with refuses("^1201: more than the 1200 training images"):
        knn_shares(*digits[:3], 10, k=1201)


def test_probe_equals_scikit_learn_at_the_same_penalty(digits):
    train, labels, test, known = digits
    probe, penalty = fit_by_lbfgs(train, labels, 10)
    standardized = LinearProbe(train, 10)
    inputs = [((part - standardized.mean) / standardized.std).double().numpy() for part in (train, test)]
    theirs = LogisticRegression(C=1 / (2 * penalty * len(train)), max_iter=2000, tol=1e-8)
    theirs.fit(inputs[0], labels.numpy())
    agreement = (probe(test).argmax(-1).numpy() == theirs.predict(inputs[1])).mean()
    assert agreement > 0.99 and (probe(test).argmax(-1) == known).float().mean() > 0.9
    np.testing.assert_allclose(probe(test).softmax(-1).numpy(), theirs.predict_proba(inputs[1]), atol=0.02)


def test_sgd_probe_learns_from_classes_and_probabilities(digits):
    train, labels, test, known = digits
    for targets in (labels, torch.nn.functional.one_hot(labels, 10).float()):
        probe = fit_by_sgd(train, targets, 10)
        assert (probe(test).argmax(-1) == known).float().mean() > 0.8


def test_sgd_follows_momentum_and_cosine_by_hand():
    """After one step of rate 30 the gradient is below 1e-6; from then on, momentum 0.9 alone moves the weights."""
    probe = fit_by_sgd(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1]), 2)
    standardized = 1 / math.sqrt(2)
    gradient = (0.5 * -standardized - 0.5 * standardized) / 2
    path = sum(0.9**step * 30 * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(100))
    torch.testing.assert_close(probe.linear.weight[:, 0], gradient * path * torch.tensor([1.0, -1.0]))


def test_sgd_takes_batches_of_512_for_100_epochs(monkeypatch):
    sizes = []
    forward = LinearProbe.forward
    monkeypatch.setattr(LinearProbe, "forward", lambda probe, rows: sizes.append(len(rows)) or forward(probe, rows))
    fit_by_sgd(torch.randn(1100, 2, generator=torch.Generator().manual_seed(0)), torch.arange(1100) % 2, 2)
    assert sizes == [512] * 200


def test_penalty_is_chosen_on_a_held_out_tenth(monkeypatch):
    """The fits keep their rows, and the third penalty scores best on the rows that its fit does not have."""
    fits = []

    def fitted(train, labels, classes, penalty):
        fits.append((penalty, set(train[:, 0].tolist())))
        return penalty, fits[-1][1]

    def top1(probe, held, labels):
        assert len(held) == 4 and set(held[:, 0].tolist()) | probe[1] == set(range(40))
        assert not set(held[:, 0].tolist()) & probe[1]
        return {1e-4: 0.9}.get(probe[0], 0.5)

    monkeypatch.setattr(probes, "_fitted", fitted)
    monkeypatch.setattr(probes, "_top1", top1)
    (penalty, rows), best = fit_by_lbfgs(torch.arange(40.0)[:, None], torch.zeros(40, dtype=torch.int64), 2)
    assert penalty == best == 1e-4 and len(rows) == 40 and len(fits) == 6


def test_zero_shot_logits_by_hand():
    features, vectors = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 10.0]])
    assert zero_shot_logits(features, vectors, torch.tensor([0.5, -1.0])).tolist() == [[3.5, 39.0]]
    torch.testing.assert_close(zero_shot_logits(features, vectors, cosine=True), torch.tensor([[0.6, 0.8]]))
    with refuses(r"holds vectors of shape \(2, 3\), the features have 2 numbers"):
        zero_shot_logits(features, torch.zeros(2, 3))


def test_calibration_error_by_hand():
    """Confidences 0.9, 0.9, 0.6 with hit, miss, hit: the gaps are |1 - 1.8| and |1 - 0.6| over three images."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    counter = CalibrationCounter(ALONE.device)
    for part, label in zip(probabilities, (0, 1, 1), strict=True):
        counter.update(part[None], torch.tensor([label]))
    assert counter.compute(ALONE) == pytest.approx(100 * (0.8 + 0.4) / 3, abs=1e-3)


def test_calibration_error_equals_gaps_of_15_bins():
    """Bin i holds the confidences in (i / 15, (i + 1) / 15]; the last two are at such ends."""
    random = np.random.default_rng(0)
    confidence = np.concatenate([random.uniform(0.5, 1, 400), [0.6, 0.8]])
    hits, gaps = random.random(402) < 0.7, 0.0
    for index in range(15):
        inside = (confidence * 15 > index) & (confidence * 15 <= index + 1)
        gaps += abs(hits[inside].sum() - confidence[inside].sum())
    counter = CalibrationCounter(ALONE.device)
    counter.update(torch.tensor(np.stack([confidence, 1 - confidence], 1)), torch.tensor(~hits).long())
    assert counter.compute(ALONE) == pytest.approx(100 * gaps / 402, abs=1e-3)


def test_feature_scores_by_hand():
    target = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0]])
    same = feature_scores(target * 2, target)
    assert same["cosine"] == 100
    # The variance about the mean (0.25, 0.5) is 2.75 + 1 = 3.75, and the squared error of doubled features is 5.
    assert same["r2"] == pytest.approx(100 * (1 - 5 / 3.75), abs=1e-3)
    assert feature_scores(target, target)["r2"] == 100
    assert feature_scores(-target, target)["cosine"] == -100
    mean = target.mean(0).expand(4, 2)
    assert feature_scores(mean, target)["r2"] == pytest.approx(0, abs=1e-4)


def nearest_by_scikit_learn(features: torch.Tensor, count: int) -> list[set[int]]:
    """Return the nearest other rows of each row."""
    found = NearestNeighbors(n_neighbors=count, metric="cosine").fit(features.numpy()).kneighbors()[1]
    return [set(row) for row in found.tolist()]


def test_nearest_rows_of_several_blocks_equal_scikit_learns():
    features = torch.randn(1030, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert [set(row) for row in nearest(features, 3).tolist()] == nearest_by_scikit_learn(features, 3)


def test_neighbors_score_is_the_share_of_common_ones():
    target = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = target + 0.5 * torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = zip(nearest_by_scikit_learn(features, 10), nearest_by_scikit_learn(target, 10), strict=True)
    common = sum(len(ours & theirs) for ours, theirs in pairs)
    assert feature_scores(features, target)["neighbors"] == pytest.approx(100 * common / 500, abs=1e-3)


def test_neighbors_of_shuffled_circle_agree_by_chance():
    """The student's forty images are a shuffled circle."""
    angles = torch.arange(40) * math.tau / 40
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    shuffled = circle[torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert 10 < feature_scores(shuffled, circle)["neighbors"] < 45, "ten of thirty-nine by chance"


@pytest.mark.parametrize(("images", "expected"), [(10, None), (20, None), (21, 50), (51, 20), (20_000, 0.10001)])
def test_neighbors_are_scored_if_chance_is_at_most_half(images, expected):
    features = torch.randn(min(images, 60), 4)
    if images <= 60:
        assert ("neighbors" in feature_scores(features, features)) == (expected is not None)
    if expected:
        assert neighbors_by_chance(images) == pytest.approx(expected, rel=1e-4)
        assert score_title("neighbors", images) == f"neighbors (chance {expected:.1f} %)"


def test_r2_is_omitted_for_one_image():
    assert feature_scores(torch.ones(1, 4), torch.ones(1, 4)) == {"cosine": 100}


@pytest.mark.parametrize("broken", ["vectors", "bias"])
def test_zero_shot_refuses_nonfinite_class_vectors(broken):
    values = {"vectors": torch.ones(3, 2), "bias": torch.zeros(3)}
    values[broken][1] = torch.nan
    with refuses("holds values that are not finite"):
        zero_shot_logits(torch.ones(1, 2), values["vectors"], values["bias"])


def test_zero_shot_refuses_wrong_number_of_biases():
    with refuses("holds biases of shape .2,. for 3 vectors"):
        zero_shot_logits(torch.ones(1, 2), torch.ones(3, 2), torch.zeros(2))


def test_probed_image_matches_any_of_its_labels():
    test = ProbedFeatures(torch.zeros(3, 1), torch.tensor([[2, 1], [0, -1], [1, -1]]), ("a", "b", "c"), "set", "val")
    scores = torch.eye(3)[[1, 2, 1]].double()
    assert Outcome({}, test, scores, scores).figures() == {
        "images": 3, "top1": pytest.approx(66.6667), "ece": pytest.approx(33.3333)
    }  # fmt: skip


def test_class_without_votes_is_not_in_top5():
    test = ProbedFeatures(torch.zeros(1, 1), torch.tensor([0]), tuple("abcdef"), "set", "val")
    shares = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    assert Outcome({}, test, shares, shares).figures()["top5"] == 0
    assert Outcome({}, test, shares, None).figures() == {"images": 1, "top1": 0, "top5": 100}


def test_classifier_needs_three_examples():
    features, labels = torch.eye(3), torch.tensor([0, 1, 0])
    with (
        refuses("^FOLDER seg: 2 examples with a class to fit a classifier to; give at least 3$"),
        naming("FOLDER", "seg"),
    ):
        fit_by_lbfgs(features[:2], labels[:2], 2)
    probe, _ = fit_by_lbfgs(features, labels, 2)
    assert probe(features).argmax(-1).tolist() == [0, 1, 0]
