"""A loss summed slice by slice: the memory of one slice of the draws, the gradient of all."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def sum_of_slices(losses: Callable[..., Tensor], slices: Sequence, network: nn.Module, *embedded: Tensor) -> Tensor:
    """Sum of `losses(slice, *embedded)`, which uses the network, over slices."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return SumOfSlices.apply(losses, slices, tuple(network.parameters()), *embedded, *network.parameters())
    return sum(losses(one, *embedded) for one in slices)


class SumOfSlices(torch.autograd.Function):
    """Sum of `losses(slice, *embedded)` over slices, whose activations are held one slice at a time.

    apply(losses, slices, parameters, *inputs): `inputs` are the tensors that `losses` takes after a slice, and then
    the `parameters`, which it uses. The gradient of each slice is taken as soon as its loss is known and added up. All
    elements of the result must enter what is differentiated with the same factor.
    """

    @staticmethod
    def forward(ctx, losses, slices, parameters, *inputs):
        embedded = [tensor.detach().requires_grad_() for tensor in inputs[: len(inputs) - len(parameters)]]
        total, ctx.gradients = 0, None
        for one in slices:
            with torch.enable_grad():
                # As views: torch's FLOP counter puts hooks on what modules take, and cannot on leaves.
                values = losses(one, *(tensor.view_as(tensor) for tensor in embedded))
            with torch.autocast(values.device.type, enabled=False):
                gradients = torch.autograd.grad(
                    values, (*embedded, *parameters), torch.ones_like(values), allow_unused=True
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
