"""The configuration of stage 1: its rates, its data and its networks."""

import math

import pytest
import torch

from gendd.methods import METHODS
from gendd.training.optim import Schedule, create_optimizer
from gendd_cifar.family import FAMILY


@pytest.mark.parametrize("rate", [0.005, None])
def test_stage_1_has_a_cosine_without_warmup_and_one_beta2(rate):
    method = METHODS["gendd"](pretrain_epochs=7, pretrain_lr=rate)
    settings = {"lr": 0.02, "head_lr": 0.3, "schedule": "step", "warmup_epochs": 3, "epochs": 240}
    stage1 = method.pretraining(FAMILY.config(method, **settings, beta1=0.8, beta2_start=0.9, beta2_end=0.99))
    assert stage1.method.name == "pretrain" and stage1.optimizer.epochs == 7
    layer = torch.nn.Linear(2, 2)
    schedule = Schedule(create_optimizer(layer, stage1.optimizer, layer), stage1.optimizer, 10)
    for step in (0, 1, 35, 69):
        schedule.set(step)
        (group,) = schedule.optimizer.param_groups
        assert group["lr"] == pytest.approx((rate or 0.02) * (0.5 + 0.5 * math.cos(math.pi * step / 70)))
        assert group["betas"] == (0.8, 0.99)


def test_stage_1_is_left_out_without_epochs():
    method = METHODS["gendd"]()
    assert method.pretraining(FAMILY.config(method)) is None
