"""A loss summed over slices of the draws: it needs the memory of one slice, and gives the gradient of all."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def sum_in_slices(loss: Callable[..., Tensor], slices: Iterable, *inputs: Tensor, network: nn.Module) -> Tensor:
    """Return the sum of `loss(slice, *inputs)` over slices; `loss` uses the network and the inputs."""
    slices = list(slices)
    if len(slices) > 1 and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        parameters = tuple(network.parameters())
        return SumInSlices.apply(loss, slices, parameters, *inputs, *parameters)
    first, *others = (loss(one, *inputs) for one in slices)
    return sum(others, start=first)


class SumInSlices(torch.autograd.Function):
    """Sum of `loss(slice, *inputs)` over slices, which holds the activations of one slice at a time.

    Call apply(loss, slices, parameters, *inputs, *parameters). The forward pass computes the gradient of each slice
    directly after its loss, and sums the gradients. In the backward pass, all elements of the result must have the same
    factor.
    """

    @staticmethod
    def forward(ctx, loss, slices, parameters, *inputs):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs[: len(inputs) - len(parameters)]]
        total, ctx.gradients = 0, None
        for one in slices:
            with torch.enable_grad():
                # Views, because torch's FLOP counter cannot put hooks on leaf tensors.
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
        gradients, ctx.gradients = ctx.gradients, None
        torch._foreach_mul_([gradient for gradient in gradients if gradient is not None], factors[0])
        return None, None, None, *gradients
