"""The number of operators in a training step: on small networks a GPU waits for each of them to be started."""

import pytest
import torch
from measure import Counted
from training_steps import Steps

# The head of the short recipe.
HEAD = ("--contraction", "0.5", "--feature-mixup", "0", "--width", "64")


@pytest.mark.parametrize(("method", "flags", "most"), [("kd", (), 900), ("gendd", HEAD, 1200)])
def test_step_starts_few_operators(tmp_path, method, flags, most):
    """Count from the augmentation to the means. timm's Muon alone starts 1,100 in a step by KD."""
    step = Steps(method, torch.device("cpu"), tmp_path, *flags)
    step()
    counted = []
    for _ in range(2):
        with Counted() as operators:
            step()
        counted.append(operators.total)
    assert counted[0] == counted[1] <= most
