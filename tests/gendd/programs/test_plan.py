"""The FLOPs that the plan tells of the head's loss, counted by hand."""

import pytest
import torch
from torch import nn
from toy import ToyNetwork

from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distill.student import Student
from gendd.networks.cost import flops
from gendd.programs.plan import loss_flops, steps_line

CPU = torch.device("cpu")
FEATURE, TOKEN, CONDITION, WIDTH, DEPTH = 160, 16, 64, 128, 2


def student(repeats, width=WIDTH, feature=FEATURE, scheme="independent"):
    head = SplitTokenHead(
        feature, CONDITION, TOKEN, width, **PAPER | {"depth": DEPTH, "repeats": repeats, "draw_scheme": scheme}
    )
    return Student(ToyNetwork(5), head, nn.Linear(feature, 5))


def by_hand(rows):
    """Of an image that comes alone, whose tokens x repeats are `rows`: no more than 1000, so that each timestep is
    embedded by itself."""
    time, condition = rows * (256 * WIDTH + WIDTH**2), CONDITION * WIDTH
    body = rows * (TOKEN * WIDTH + DEPTH * (3 + 2) * WIDTH**2)
    last = rows * (2 * WIDTH**2 + 2 * TOKEN * WIDTH)
    return 2 * (time + condition + body + last)


@pytest.mark.parametrize("repeats", [8, 30])
def test_the_loss_of_one_image_costs_what_its_products_cost(repeats):
    assert loss_flops(student(repeats), 1, CPU) == by_hand(FEATURE // TOKEN * repeats)


@pytest.mark.parametrize("scheme", ["independent", "shared", "antithetic"])
def test_the_cost_of_an_image_is_its_share_of_a_batch(scheme):
    """As training takes it, where timesteps are embedded once for all, and not as an image that comes alone."""
    batch, one = 50, student(8, scheme=scheme)
    whole = flops(lambda: one.head(torch.randn(batch, CONDITION), torch.randn(batch, FEATURE)))
    assert loss_flops(one, batch, CPU) == round(whole / batch) <= loss_flops(one, 1, CPU)


def test_a_view_of_a_parameter_as_a_modules_input_is_counted():
    """torch's tracker of modules stumbles over it without gradients."""
    weights, output = nn.Parameter(torch.ones(6, 3)), nn.Linear(3, 2)
    assert flops(lambda: output(weights.chunk(2)[0])) == 2 * 3 * 3 * 2


def test_plan_with_few_steps_says_what_gives_more():
    assert steps_line(10, 100) == "  steps      10 per epoch, 1000 in all"
    assert steps_line(1, 100).startswith("  steps      1 per epoch, 100 in all; few, ")
    assert steps_line(1, 100).endswith("; few, most students need 1000")
