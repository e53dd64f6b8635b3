"""Teacher predictions replace missing labels, in every method that can train without labels."""

import pytest
import torch
import torch.nn.functional as F
from programs import for_head

from gendd.core.errors import InvalidSetting
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import METHODS
from gendd.runs.experiment import build
from gendd_cifar.family import FAMILY

CLASSES, BATCH = 7, 4
SOME = torch.tensor([3, -1, 0, -1])
IMAGES = torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def task_of(method="gendd", **changes):
    settings = for_head(method, {"width": 16, "depth": 1, "repeats": 4}) | changes
    config = FAMILY.config(METHODS[method](), student="resnet8", teacher="resnet8x4", **settings)
    task = build(FAMILY, config, CLASSES, torch.device("cpu")).task.train()
    return task


def batch(labels):
    return Batch(IMAGES, labels, next(BatchPlan(0, BATCH).micro_batches(0)))


def soft_labels(task):
    """Return rows 0 and 2 of SOME one-hot, and rows 1 and 3 from the teacher."""
    with torch.no_grad():
        soft = task.teacher.model.eval()(IMAGES).softmax(-1)
    soft[[0, 2]] = 0
    soft[0, 3] = soft[2, 0] = 1
    return soft


def test_teacher_predictions_fill_missing_labels_only():
    task = task_of(label_fraction=0.5)
    torch.testing.assert_close(task.class_targets(task.teacher.features_of(IMAGES), SOME), soft_labels(task))


def test_complete_labels_are_unchanged():
    task, labels = task_of(), torch.tensor([3, 1, 0, 2])
    assert task.class_targets(None, labels) is labels and task.training_targets(batch(labels)) is labels


@pytest.mark.parametrize("method", ["gendd", "regression"])
def test_contraction_uses_the_same_soft_labels(method, monkeypatch):
    task, seen = task_of(method, label_fraction=0.5, contraction=0.75), {}

    def student(images, target, probe_target, *others):
        seen.update(target=target, probe_target=probe_target)
        return {}

    monkeypatch.setattr(task.trainable_module, "forward", student)
    task(batch(SOME))
    soft, feature = soft_labels(task), task.teacher.features_of(IMAGES)
    torch.testing.assert_close(seen["probe_target"], soft)
    torch.testing.assert_close(seen["target"], 0.25 * feature + 0.75 * soft @ task.teacher.classifier.weight)


@pytest.mark.parametrize("method", ["gendd", "regression"])
def test_probe_with_a_gradient_learns_the_teacher_on_the_target(method):
    task = task_of(method, contraction=0.75, probe_gradient=0.1)
    losses = task(batch(torch.tensor([3, 1, 0, 2])))
    weight, bias = (task.teacher.model.get_classifier().state_dict()[name] for name in ("weight", "bias"))
    target = 0.25 * task.teacher.features_of(IMAGES) + 0.75 * weight[[3, 1, 0, 2]]
    taught, learned = ((logits / 2).log_softmax(-1) for logits in (target @ weight.T + bias, losses["output"].float()))
    expected = 4 * (taught.exp() * (taught - learned)).sum(-1).mean()
    torch.testing.assert_close(losses["probe_loss"], expected.detach())


def test_probe_gradient_needs_the_classifier_of_the_teacher():
    with pytest.raises(InvalidSetting, match="probe_gradient` 0.1: the probe learns from the teacher's classifier"):
        task_of(contraction=0.0, probe_gradient=0.1, teacher_classifier=False)


def test_linear_map_takes_the_probe_gradient():
    task = task_of(contraction=0.0, probe_gradient=0.1, teacher_classifier=False, unlabeled=True)
    assert task.trainable_module.linear and task.trainable_module.probe_gradient == 0.1


def test_plan_names_the_probe_gradient():
    assert "probe gradient" not in METHODS["gendd"]().describe()
    assert METHODS["regression"](probe_gradient=0.1).describe().endswith(", probe gradient 0.1")


@pytest.mark.parametrize("method", ["pretrain", "gendd"])
def test_rows_without_labels_use_soft_cross_entropy(method):
    task = task_of(method, label_fraction=0.5)
    losses = task(batch(SOME))
    loss = losses["loss"] if method == "pretrain" else losses["probe_loss"]
    expected = -(soft_labels(task) * F.log_softmax(losses["output"].float(), -1)).sum(-1).mean()
    torch.testing.assert_close(loss, expected)


def test_pretrain_with_all_labels_runs_no_teacher(monkeypatch):
    monkeypatch.setattr(FrozenTeacher, "forward", None)
    assert task_of("pretrain")(batch(torch.tensor([3, 1, 0, 2])))["loss"] > 0
