"""The dense head that the options of a method build, and the random numbers of its target."""

import pytest
import timm
import torch

from gendd.core.seeding import BatchPlan
from gendd.diffusion.head import SplitTokenHead
from gendd.distillation.dense import DenseHead
from gendd.distillation.regression_head import RegressionHead
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import METHODS
from gendd.methods.base import TaskContext
from gendd.methods.dense import dense_target
from gendd_imagenet.family import FAMILY

CPU = torch.device("cpu")


def built(method: str, classifies: bool = True, **options) -> DenseHead:
    torch.manual_seed(0)
    config = FAMILY.config(METHODS[method](dense_grid=2, dense_width=16, **options), image_size=64)
    student, network = (timm.create_model("test_resnet", num_classes=5) for _ in range(2))
    teacher = FrozenTeacher(network, student, CPU, image_size=64, has_classifier=classifies, grid=2)
    return config.method.build_dense(TaskContext(config, student, teacher, {}, CPU))


def test_generative_head_has_the_draws_and_width_of_the_options():
    head = built("gendd", dense_draws=3).head
    assert isinstance(head, SplitTokenHead) and head.draw(4).count == 4 * 3 * head.num_tokens
    assert (head.feature_dim, head.token_dim) == (96, 48), "the divisor of 96 that is nearest to 64"
    assert isinstance(built("gendd").head, RegressionHead)


@pytest.mark.parametrize("method", ["gendd", "regression", "kd"])
def test_map_is_standardized_only_without_a_classifier(method):
    assert built(method).scale is None and (built(method).weight, built(method).grid) == (0.3, 2)
    assert built(method, classifies=False).scale is not None


def test_targets_of_two_steps_and_of_the_head_have_other_noise():
    dense, feature_map = built("gendd", dense_draws=4), torch.zeros(2, 4, 96)
    (first,), (second,) = (list(BatchPlan(0, 2).micro_batches(step)) for step in (0, 1))
    noise = [dense_target(dense, feature_map, random, CPU).draws.noise for random in (first, first, second)]
    assert torch.equal(noise[0], noise[1]) and not torch.equal(noise[0], noise[2])
    others = dense.head.draw(2 * 4, first.generator("diffusion", CPU))
    assert not torch.equal(noise[0], others.noise)
