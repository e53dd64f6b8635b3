"""Plain reference for speed comparisons: fp32, default memory layout, everything recomputed for each draw.

It computes the same loss as `gendd.diffusion.head` from the same draws, written for clarity, not for speed. Every draw
of every token embeds its condition and its timestep again, and every block activates its conditioning again.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gendd.diffusion.draws import Draws
from gendd.diffusion.head import SplitTokenHead
from gendd.diffusion.samplers import sample_ancestral, spaced_timesteps
from gendd.diffusion.schedule import NoiseSchedule
from gendd.distillation.student import Student
from gendd.distillation.targets import contract, feature_mixup, swap_neighbors
from gendd.networks.features import pooled_feature


def denoise(head: SplitTokenHead, x: Tensor, t: Tensor, z: Tensor, token: Tensor) -> Tensor:
    """Map x (N, d), t (N,), z (N, D_s) and token (N,) to the denoiser's output (N, 2d)."""
    net = head.net
    u = net.time_embed(t) + net.cond_embed(z) + net.pos_embed(token)
    x = net.input_proj(x)
    for block in net.res_blocks:
        shift, scale, gate = block.adaLN_modulation[1](F.silu(u)).chunk(3, dim=-1)
        x = x + gate * block.mlp(block.in_ln(x) * (1 + scale) + shift)
    final = net.final_layer
    shift, scale = final.adaLN_modulation[1](F.silu(u)).chunk(2, dim=-1)
    return final.linear(final.norm_final(x) * (1 + scale) + shift)


def head_loss(head: SplitTokenHead, z: Tensor, target: Tensor, draws: Draws) -> Tensor:
    """Compute the head's loss after repeating the batch K times."""
    tokens, shape = head.num_tokens, draws.noise.shape[:-1]
    t, dropped, noise = (
        draws.t.expand(shape).flatten(),
        draws.dropped.expand(shape).flatten(),
        draws.noise.flatten(0, 3),
    )
    x_start = target.unflatten(-1, (tokens, 1, 1, -1)).expand_as(draws.noise).flatten(0, 3)
    condition = z[:, None, None, None].expand(*shape, -1).flatten(0, 3)
    condition = torch.where(dropped[:, None], torch.zeros_like(condition), condition)
    token = torch.arange(tokens)[:, None, None].expand(shape).flatten()
    output = denoise(head, head.objective.schedule.add_noise(x_start, noise, t), t, condition, token)
    mse, vb = head.objective.schedule.loss_terms(output, x_start, noise, t)
    return (mse + vb).mean()


def step_loss(
    student: Student,
    teacher: torch.nn.Module,
    images: Tensor,
    labels: Tensor,
    contraction: float,
    share: Tensor,
    draws: Draws,
) -> Tensor:
    """Compute the loss of one GenDD training step."""
    with torch.no_grad():
        feature = pooled_feature(teacher, images)
    target = contract(feature, teacher.get_classifier().weight, labels, contraction)
    h = pooled_feature(student.backbone, images)
    permutation = swap_neighbors(len(images))
    z, target = (feature_mixup(values, share, permutation) for values in (student.norm(h), target))
    probe = F.cross_entropy(student.backbone.get_classifier()(h.detach()), labels)
    return head_loss(student.head, z, target, draws) + probe


@torch.no_grad()
def head_logits(student: Student, images: Tensor, steps: int, samples: int, noise: Callable[[], Tensor]) -> Tensor:
    """Return the logits (B, C) of the paper's inference: ancestral sampling with guidance 2, samples independent.

    Args:
        noise: draws (B, S, M, d), first for the start, then for each step but the last.
    """
    head, z = student.head, student.norm(pooled_feature(student.backbone, images))
    tokens = torch.arange(head.num_tokens).to(z.device).expand(len(z), samples, -1).flatten()
    condition = z[:, None, None].expand(-1, samples, head.num_tokens, -1).flatten(0, 2)
    both = torch.cat([condition, torch.zeros_like(condition)])
    schedule = NoiseSchedule(spaced_timesteps(steps)).to(z.device)

    def predict(x: Tensor, index: int) -> tuple[None, Tensor, Tensor]:
        x = x.flatten(0, 2).repeat(2, 1)
        t = torch.full((len(x),), schedule.timesteps[index], device=x.device)
        output = denoise(head, x, t, both, tokens.repeat(2))
        (eps, variance), (unguided, _) = (half.chunk(2, dim=-1) for half in output.chunk(2))
        shape = (len(z), samples, head.num_tokens, head.token_dim)
        return None, (unguided + 2 * (eps - unguided)).view(shape), variance.reshape(shape)

    features = sample_ancestral(schedule, predict, noise(), noise).flatten(-2)
    return student.classifier(features.mean(1))
