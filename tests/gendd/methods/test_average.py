"""The moving average of the trained weights: timm's numbers."""

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from gendd.methods.base import Task


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_average_equals_timms(decay):
    """Weights and statistics are averaged; counts and masks are copied."""
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    network.register_buffer("mask", torch.zeros(3, dtype=torch.bool))
    task, timms = Task(network), ModelEmaV3(network, decay=decay, use_warmup=True)
    task.start_average(decay)
    for step in range(6):
        for value in network.state_dict().values():
            value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.randint(0, 2, value.shape))
        task.update_average(step)
        timms.update(network, step=step)
        averaged = task.model(averaged=True).state_dict()
        for name, value in timms.module.state_dict().items():
            torch.testing.assert_close(averaged[name], value, rtol=0, atol=0)
    assert not torch.equal(averaged["0.weight"], network[0].weight)
