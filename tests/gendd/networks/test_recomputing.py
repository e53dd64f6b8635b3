"""Gradient checkpointing of networks."""

import copy
import gc

import pytest
import timm
import torch
import torch.distributed as dist
from lines import refuses
from network_checks import create
from torch.nn.parallel import DistributedDataParallel

from gendd.networks.create import recompute_activations


def recomputing(name, **options):
    """Return two networks with the same weights; the second one uses gradient checkpointing."""
    torch.manual_seed(0)
    networks = [timm.create_model(name, num_classes=5, **options).train()]
    networks.append(copy.deepcopy(networks[0]))
    recompute_activations(name, networks[1])
    return networks


def step(network, seed):
    """Run forward and backward; return the loss and the bytes kept for the backward pass."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(seed)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images).square().mean()
    loss.backward()
    return loss.detach(), sum(kept.values())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("mobilenetv1_100", {}),
        ("cifar_resnet20", {}),
        ("test_vit", {"img_size": 32, "proj_drop_rate": 0.2}),
    ],
)
def test_grad_checkpointing_changes_no_result(name, options):
    """Batch norm statistics, which meet each batch twice, and dropout masks are the same too."""
    networks = recomputing(name, **options)
    for seed in (1, 2):
        (loss, kept), (same_loss, less) = (step(network, seed) for network in networks)
        assert torch.equal(loss, same_loss) and less < 0.7 * kept
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one.grad, other.grad)
    for (buffer, value), other in zip(networks[0].named_buffers(), networks[1].buffers(), strict=True):
        assert torch.equal(value, other), buffer


def test_grad_checkpointing_changes_no_compiled_result():
    networks = recomputing("cifar_resnet8")
    networks[1].compile(backend="aot_eager")
    assert torch.equal(*(step(network, 1)[0] for network in networks))
    for one, other in zip(*(network.state_dict().values() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_grad_checkpointing_changes_no_result_under_ddp():
    networks = recomputing("cifar_resnet20")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(networks[1])
        for seed in (1, 2):
            assert torch.equal(step(networks[0], seed)[0], step(wrapped, seed)[0])
        del wrapped
        gc.collect()
    finally:
        dist.destroy_process_group()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one.grad, other.grad)
    for one, other in zip(*(network.buffers() for network in networks), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["toy:network", "timm/coat_tiny"])
def test_network_without_grad_checkpointing_is_refused(name):
    with torch.device("meta"):
        network = create(name, image_size=224)
    with refuses(f"^{name} does not support gradient checkpointing"):
        recompute_activations(name, network)
