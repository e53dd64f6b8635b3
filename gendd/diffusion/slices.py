"""A loss summed slice by slice: the memory of one slice of the draws, the gradient of all."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def sum_in_slices(loss: Callable[..., Tensor], slices: Iterable, *inputs: Tensor, network: nn.Module) -> Tensor:
    """Return the sum of `loss(slice, *inputs)` over slices; `loss` uses the network and the inputs."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        parameters = tuple(network.parameters())
        return SumInSlices.apply(loss, slices, parameters, *inputs, *parameters)
    return sum(loss(one, *inputs) for one in slices)


class SumInSlices(torch.autograd.Function):
    """Sum of `loss(slice, *inputs)` over slices, whose activations are held one slice at a time.

    apply(loss, slices, parameters, *inputs, *parameters). The forward pass takes the gradient of each slice as soon as
    its loss is known, and adds it up. All elements of the result must be differentiated with the same factor.
    """

    @staticmethod
    def forward(ctx, loss, slices, parameters, *inputs):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs[: len(inputs) - len(parameters)]]
        total, ctx.gradients = 0, None
        for one in slices:
            with torch.enable_grad():
                # As views: torch's FLOP counter puts hooks on what modules take, and cannot on leaves.
                values = loss(one, *(tensor.view_as(tensor) for tensor in leaves))
            with torch.autocast(values.device.type, enabled=False):
                gradients = torch.autograd.grad(
                    values, (*leaves, *parameters), torch.ones_like(values), allow_unused=True
                )
            total = total + values.detach()
            if ctx.gradients is None:
                ctx.gradients = gradients
            else:
                used = [i for i, gradient in enumerate(gradients) if gradient is not None]
                torch._foreach_add_([ctx.gradients[i] for i in used], [gradients[i] for i in used])
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factors):
        gradients = [g if g is None else g.mul_(factors[0]) for g in ctx.gradients]
        ctx.gradients = None
        return None, None, None, *gradients
