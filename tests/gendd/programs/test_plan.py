"""The FLOPs of the head's loss in the plan, compared with counts by hand."""

import pytest
import torch
from torch import nn
from toy import ToyNetwork

from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.student import Student
from gendd.networks.cost import flops
from gendd.programs.plan import loss_flops, steps_line

FEATURE, TOKEN, CONDITION, WIDTH, DEPTH = 160, 16, 64, 128, 2


def student(repeats, width=WIDTH, feature=FEATURE, scheme="independent"):
    given = {"token_dim": TOKEN, "width": width, "depth": DEPTH, "repeats": repeats, "draw_scheme": scheme}
    head = SplitTokenHead(feature, CONDITION, **PAPER | given)
    return Student(ToyNetwork(5), head, nn.Linear(feature, 5))


def by_hand(rows):
    """Count the FLOPs of one image alone, with `rows` tokens x repeats.

    This holds for up to 1000 rows, where each row embeds its timestep separately.
    """
    time, condition = rows * (256 * WIDTH + WIDTH**2), CONDITION * WIDTH
    body = rows * (TOKEN * WIDTH + DEPTH * (3 + 2) * WIDTH**2)
    last = rows * (2 * WIDTH**2 + 2 * TOKEN * WIDTH)
    return 2 * (time + condition + body + last)


@pytest.mark.parametrize("repeats", [8, 30])
def test_loss_flops_of_one_image_equal_count_by_hand(repeats):
    assert loss_flops(student(repeats), 1) == by_hand(FEATURE // TOKEN * repeats)


@pytest.mark.parametrize("scheme", ["independent", "shared", "antithetic"])
def test_loss_flops_are_the_images_share_of_a_batch(scheme):
    """A batch embeds each timestep once for all images, which costs less than single images."""
    batch, one = 50, student(8, scheme=scheme)
    whole = flops(lambda: one.head(torch.randn(batch, CONDITION), torch.randn(batch, FEATURE)))
    assert loss_flops(one, batch) == round(whole / batch) <= loss_flops(one, 1)


def test_flops_count_module_with_view_of_a_parameter():
    """torch's module tracker fails on such an input without gradients."""
    weights, output = nn.Parameter(torch.ones(6, 3)), nn.Linear(3, 2)
    assert flops(lambda: output(weights.chunk(2)[0])) == 2 * 3 * 3 * 2


def test_plan_with_few_steps_warns():
    assert steps_line(10, 100) == "  steps      10 per epoch, 1000 in all"
    assert steps_line(1, 100).startswith("  steps      1 per epoch, 100 in all; this is few, ")
    assert steps_line(1, 100).endswith("; this is few, most students need at least 1000")
