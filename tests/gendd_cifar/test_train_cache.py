"""Training from a cache of teacher features."""

import pytest
import torch
from lines import refuses
from run_folders import settings_of
from small_runs import assert_same_weights, ctrl_c, weights

from gendd.distillation.teacher import FrozenTeacher
from gendd.runs.metrics import read_metrics
from gendd.training.loop import Training
from gendd_cifar.data import TrainingImages

# Small loss weights keep SGD stable. With labels, some methods would not use teacher features.
SMALL_STEPS = {
    "pretrain": ["--unlabeled"],
    "finetune": ["--unlabeled"],
    "kl": ["--unlabeled", "--temperature", "1"],
    "kd": ["--temperature", "1"],
    "ikl": ["--temperature", "1", "--beta", "1"],
    "dist": ["--temperature", "1", "--beta", "1", "--gamma", "1"],
    "feature": ["--feature-weight", "1"],
    "srd": ["--feature-weight", "1"],
}


@pytest.mark.parametrize(
    "method", ["gendd", "pretrain", "kl", "finetune", "kd", "ikl", "dist", "feature", "srd", "simkd", "regression"]
)
def test_run_from_a_cache_equals_the_run_with_its_teacher(train, whole, method, monkeypatch):
    """Both runs agree up to rounding if all views are identical. Training from a cache does not call the teacher."""
    flags = ["--crop-padding", "0", "--epochs", "2", "--optimizer", "sgd", "--lr", "1e-2", *SMALL_STEPS.get(method, [])]
    flags += ["--student-weights", str(whole)] if method == "finetune" else []
    beside = train(*flags, method=method, runs="beside")
    train_epoch, outputs_of = Training.train_epoch, FrozenTeacher.outputs_of
    training = []

    def marked(self):
        training.append(self)
        result = train_epoch(self)
        training.clear()
        return result

    def refuses(self, images):
        assert not training, "the teacher runs in training"
        return outputs_of(self, images)

    monkeypatch.setattr(Training, "train_epoch", marked)
    monkeypatch.setattr(FrozenTeacher, "outputs_of", refuses)
    cached = train(*flags, "--teacher-cache", str(beside.parents[3] / "cache"), method=method, runs="cached")
    ours, theirs = ([record["loss"] for record in read_metrics(run) if record["kind"] == "train"]
                    for run in (cached, beside))  # fmt: skip
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert_same_weights(cached, beside, rtol=1e-2, atol=1e-3)


def test_resumed_run_from_a_cache_equals_an_uninterrupted_one(train, tmp_path):
    cache = ["--teacher-cache", str(tmp_path / "cache"), "--cached-views", "2"]
    whole = train(*cache, runs="whole")
    with ctrl_c("train_step", step=25):
        train(*cache, runs="parts")
    assert_same_weights(whole, train(*cache, runs="parts"), rtol=0, atol=0)
    other = train(*cache[:2], "--cached-views", "3", runs="three")
    assert not torch.equal(weights(whole)["norm.weight"], weights(other)["norm.weight"])


def test_cached_run_does_not_use_labels(train, tmp_path, monkeypatch):
    flags = ["--contraction", "0", "--unlabeled", "--epochs", "1"]
    honest = train(*flags, "--teacher-cache", str(tmp_path / "honest"), runs="true")
    init = TrainingImages.__init__

    def garbage(self, source, *arguments):
        init(self, source, *arguments)
        self.labels = torch.full_like(self.labels, 10**9)

    monkeypatch.setattr(TrainingImages, "__init__", garbage)
    lied_to = train(*flags, "--teacher-cache", str(tmp_path / "garbage"), runs="garbage")
    assert_same_weights(honest, lied_to, rtol=0, atol=0)
    for path in (tmp_path / "honest").iterdir():
        assert path.read_bytes() == (tmp_path / "garbage" / path.name).read_bytes()


def test_unused_cache_is_printed_or_refused(train, tmp_path, capsys):
    cache = tmp_path / "cache"
    flags = ["--teacher-cache", str(cache), "--epochs", "1"]
    run = train(*flags, "--cached-views", "2", method="pretrain")
    assert "not used, pretrain with labels reads no feature of the teacher" in capsys.readouterr().out
    assert settings_of(run)["teacher_cache"] is None and not cache.exists()
    with refuses("classification does not learn from cached features; leave it out"):
        train(*flags, method="classification")
    with refuses("--cached-views 0: must be at least 1"):
        train(*flags, "--cached-views", "0")
    with refuses("--cached-views 3: --teacher-cache is missing"):
        train("--cached-views", "3")
    train(*flags)
    train(*flags, "--seed", "1")
    with refuses("was made from other settings: hflip 0.0 there, 0.5 here; name another folder"):
        train(*flags, "--hflip", "0.5", "--name", "flipped")
