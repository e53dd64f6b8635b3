"""Networks whose parameters are mapped from a file: the same values and costs as networks created as usual."""

from functools import partial

import pytest
import timm
import torch
from torch import nn

from gendd.networks.cost import flops, parameter_count
from gendd.networks.meta import created_empty, is_empty, without_values

# Small networks with buffers that files do not hold, or with unusual parameters.
EMPTY = [
    "convit_tiny", "csatv2", "deit_tiny_distilled_patch16_224", "eca_halonext26ts", "efficientformerv2_s0",
    "efficientvit_m0", "eva02_tiny_patch14_224", "gcvit_xxtiny", "lambda_resnet26rpt_256", "levit_128s",
    "resnetblur18", "resnetv2_50x1_bit", "test_nfnet", "tiny_vit_5m_224", "vit_pe_core_tiny_patch16_384",
    "vit_relpos_small_patch16_224", "vit_small_patch16_dinov3", "xcit_nano_12_p16_224",
]  # fmt: skip
# Networks that compute with their parameters while they are created.
FILLED = ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "vitamin_small_224"]


@pytest.mark.parametrize("name", [*EMPTY, *FILLED])
def test_mapped_network_gives_outputs_of_usual_one(name):
    usual = timm.create_model(name).eval()
    state = torch.get_rng_state()
    network = created_empty(partial(timm.create_model, name)).eval()
    assert is_empty(network) == (name in EMPTY)
    assert torch.equal(torch.get_rng_state(), state) == (name in EMPTY)
    shapes, size = without_values(network), (1, *network.pretrained_cfg["input_size"])
    network.load_state_dict(usual.state_dict(), assign=True)
    image = torch.randn(size)
    with torch.no_grad():
        expected = usual(image)
        assert torch.equal(network(image), expected)
    with next(shapes.parameters()).device:
        counted = flops(lambda: shapes(torch.zeros(size)))
    assert counted == flops(lambda: usual(image))


class Tied(nn.Module):
    """Two layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_shared_parameter_is_counted_once():
    network = created_empty(Tied)
    assert is_empty(network) and network.first.weight is network.second.weight
    assert parameter_count(network) == parameter_count(Tied()) == 15
