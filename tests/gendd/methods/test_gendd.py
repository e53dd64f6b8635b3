"""GenDD's task: shares of feature mixup, the noise of each teacher, and the features that a report compares."""

import pytest
import torch
from programs import cifar_config

from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.methods.gendd import GenDDTask
from gendd.runs.experiment import build
from gendd_cifar.family import FAMILY

CPU = torch.device("cpu")
HEAD = ["--token-dim", "32", "--width", "16", "--depth", "1", "--repeats", "2"]


def task_of(*flags: str) -> GenDDTask:
    networks = ["--student", "toy:network", "--teacher", "toy:network", "--teacher-weights", "random"]
    return build(FAMILY, cifar_config("--dataset", "digits", *networks, *HEAD, *flags), 10, CPU).task


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_mixup_shares_follow_their_beta_distribution(beta):
    """Beta(b, b) has the mean 1/2 and the variance 1 / (4 (2 b + 1))."""
    task, plan = task_of("--feature-mixup", str(beta)), BatchPlan(0, 2)
    shares = torch.stack([task.mixup_share(next(plan.micro_batches(step)), CPU) for step in range(2000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * beta + 1)), rel=0.1)


def test_mixup_share_is_one_per_global_batch():
    task, (first, second) = task_of(), BatchPlan(0, 4, grad_accum_steps=2).micro_batches(3)
    assert task.mixup_share(first, CPU) == task.mixup_share(second, CPU)
    assert task_of("--feature-mixup", "0").mixup_share(first, CPU) is None


def test_heads_of_two_teachers_have_other_noise():
    task = task_of("--teacher", "toy:own", "--dense-grid", "2", "--dense-draws", "2")
    batch = Batch(torch.randn(4, 3, 32, 32), torch.arange(4), next(BatchPlan(0, 4).micro_batches(0)))
    second = task.branch_target(0, batch)
    first = task.draws(batch.random, CPU, task.head)
    assert first.noise.shape == second.draws.noise.shape
    assert not torch.equal(first.noise, second.draws.noise) and not torch.equal(first.t, second.draws.t)


@pytest.mark.parametrize("flags", [["--contraction", "0.75"], ["--contraction", "0", "--unlabeled"]])
def test_reported_pairs_are_generated_features_and_their_targets(flags):
    """Evaluation images too have contracted targets, if labels are used."""
    task, images, labels = task_of(*flags).eval(), torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 0, 2])
    pairs = task.feature_pairs(task.model(), images, labels, torch.Generator())
    feature = task.teacher.features_of(images)
    target = feature if "--unlabeled" in flags else 0.25 * feature + 0.75 * task.teacher.class_centers[labels]
    expected = {"generated": task.model().sample(images), "target": target, "teacher": feature}
    torch.testing.assert_close(pairs, expected)


@pytest.mark.parametrize(
    "flags",
    [
        ["--dense-grid", "2"],
        ["--contraction", "0", "--unlabeled", "--no-teacher-classifier"],
        ["--teacher", "toy:own", "--dense-grid", "2"],
    ],
    ids=["classes", "features", "two teachers"],
)
def test_parameters_of_each_output_are_those_that_it_uses(flags):
    """A parameter counts if the output's gradient reaches it."""
    task = task_of(*flags).eval().requires_grad_(True)
    outputs = [*task.outputs_apart(task.model()), *task.further_outputs(task.model())]
    assert len(outputs) == (3 if "toy:own" in flags else 2)
    for output, count in outputs:
        task.zero_grad()
        output.compute(torch.randn(2, 3, 32, 32), torch.Generator())[output.names[0]].sum().backward()
        used = [parameter for parameter in task.model().parameters() if parameter.grad is not None]
        assert count == sum(parameter.numel() for parameter in used), output.names
