"""Muon with few operations per step: matrices of one shape are orthogonalized as one batch, all else runs by foreach.

timm's Muon visits the parameters one by one, with some 50 operations for each, and a GPU waits for them. The numbers
are timm's, and so are the names of the state: each reads the other's checkpoints.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import timm.optim
import torch
from timm.optim.muon import MUON_EPS, get_lr_scale
from torch import Tensor

# Coefficients (a, b, c) of the iterations X <- a X + b (X X^T) X + c (X X^T)^2 X (timm's "quintic").
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


class Muon(timm.optim.Muon):
    """timm's Muon with Nesterov momentum, for groups that state `use_fallback`: NAdamW updates their parameters.

    A convolution (O, I, H, W) is updated as the matrix (O, I H W). The groups may differ in learning rate and weight
    decay.
    """

    def __init__(self, groups: Iterable[dict], momentum: float, betas: tuple[float, float]):
        super().__init__(groups, momentum=momentum, nesterov=True, betas=betas)
        self.orthogonalize: Callable[[list[Tensor]], list[Tensor]] = orthogonalized

    def compile(self, **options: Any) -> None:
        """Compile the orthogonalization, with options of torch.compile."""
        self.orthogonalize = torch.compile(orthogonalized, **options)

    @torch.no_grad()
    def step(self) -> None:
        shared = self.param_groups[0]
        for fallback, update in ((False, self._update_matrices), (True, self._update_others)):
            groups = [group for group in self.param_groups if group["use_fallback"] == fallback]
            members = [(p, group["lr"], group["weight_decay"]) for group in groups for p in group["params"]]
            members = [member for member in members if member[0].grad is not None]
            if members:
                params, rates, decays = zip(*members, strict=True)
                torch._foreach_mul_(params, [1 - rate * decay for rate, decay in zip(rates, decays, strict=True)])
                update(shared, params, [p.grad for p in params], rates)

    def _update_matrices(
        self, settings: dict[str, Any], params: Sequence[Tensor], gradients: list[Tensor], rates: Sequence[float]
    ) -> None:
        momenta = self._state("momentum_buffer", params)
        torch._foreach_lerp_(momenta, gradients, 1 - settings["momentum"])
        factors = self.orthogonalize(torch._foreach_lerp(gradients, momenta, settings["momentum"]))
        scales = [rate * get_lr_scale((len(p), p.shape[1:].numel())) for p, rate in zip(params, rates, strict=True)]
        for rate in set(scales):
            of_rate = [i for i, scale in enumerate(scales) if scale == rate]
            torch._foreach_add_([params[i] for i in of_rate], [factors[i] for i in of_rate], alpha=-rate)

    def _update_others(
        self, settings: dict[str, Any], params: Sequence[Tensor], gradients: list[Tensor], rates: Sequence[float]
    ) -> None:
        """Update by AdamW with Nesterov momentum (timm's NAdamW)."""
        first, second = (self._state(name, params) for name in ("exp_avg", "exp_avg_sq"))
        counters, (beta1, beta2) = self._state("step", params), settings["betas"]
        torch._foreach_add_(counters, 1)
        # They differ if a parameter was without a gradient in some steps.
        counts = torch.stack(counters).tolist()
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, [(1 - beta2**count) ** 0.5 for count in counts])
        torch._foreach_add_(roots, settings["eps"])
        ahead = torch._foreach_lerp(first, gradients, 1 - beta1)
        sizes = [-rate / (1 - beta1**count) for rate, count in zip(rates, counts, strict=True)]
        torch._foreach_addcdiv_(params, ahead, roots, sizes)

    def _state(self, name: str, params: Sequence[Tensor]) -> list[Tensor]:
        """Return this tensor of each parameter's state; before its first step it is zero."""
        for p in params:
            if name not in self.state[p]:
                # The count of steps stays on the CPU, where it is read.
                self.state[p][name] = torch.zeros(()) if name == "step" else torch.zeros_like(p)
        return [self.state[p][name] for p in params]


def by_shape(tensors: Sequence[Tensor]) -> dict[torch.Size, list[int]]:
    """Return the indices of the tensors of each shape."""
    members: dict[torch.Size, list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        members[tensor.shape].append(i)
    return members


def orthogonalized(updates: list[Tensor]) -> list[Tensor]:
    """Return the orthogonal factor of each update (O, ...), as a matrix (O, N). Updates of one shape are a batch."""
    factors = list(updates)
    for shape, members in by_shape(updates).items():
        stacked = torch.stack([updates[i] for i in members])
        batch = newton_schulz(stacked.to(torch.bfloat16, memory_format=torch.contiguous_format).flatten(2))
        for i, factor in zip(members, batch.reshape(-1, *shape).unbind(), strict=True):
            factors[i] = factor
    return factors


def newton_schulz(matrices: Tensor) -> Tensor:
    """Return the orthogonal factor of each matrix (n, O, N), bf16: all singular values become nearly 1."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = (x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=MUON_EPS)).contiguous()
    for a, b, c in COEFFICIENTS:
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
