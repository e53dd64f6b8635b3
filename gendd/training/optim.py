"""Optimizer, parameter groups, and the schedules of learning rate and beta2 per step."""

import math

import torch
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gendd.config import Optimizer
from gendd.training.muon import Muon


def parameter_groups(module: nn.Module, config: Optimizer, *heads: nn.Module | None) -> list[dict]:
    """Split the trained parameters into three groups: with weight decay, without, and the heads.

    The heads have a separate learning rate and no weight decay. `config.decay` decides about vectors (norms, biases).
    """
    in_head = {id(p) for head in heads if head for p in head.parameters()}
    trained = [p for p in module.parameters() if p.requires_grad]
    backbone = [p for p in trained if id(p) not in in_head]
    decayed = [p for p in backbone if p.dim() > 1 or config.decay == "head-exempt"]
    kept = [p for p in backbone if p.dim() <= 1 and config.decay == "matrices"]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "lr": config.lr},
        {"params": kept, "weight_decay": 0.0, "lr": config.lr},
        {"params": [p for p in trained if id(p) in in_head], "weight_decay": 0.0, "lr": config.head_lr or config.lr},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(module: nn.Module, config: Optimizer, *heads: nn.Module | None) -> torch.optim.Optimizer:
    groups, betas = parameter_groups(module, config, *heads), (config.beta1, config.beta2_start)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, fused=True)
    if config.optimizer == "muon":
        return Muon(_muon_groups(module, groups), config.momentum, betas)
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def _muon_groups(module: nn.Module, groups: list[dict]) -> list[dict]:
    """Split each group into two: parameters for Muon, and parameters for NAdamW."""
    hidden = _hidden_weights(module)
    split = []
    for group in groups:
        for fallback in (False, True):
            params = [p for p in group["params"] if (id(p) not in hidden) == fallback]
            split.append({**group, "params": params, "use_fallback": fallback})
    return [group for group in split if group["params"]]


def _hidden_weights(module: nn.Module) -> set[int]:
    """Return the ids of the weights of linear and convolution layers in the backbone, without its classifier.

    The backbone is the module with timm's interface (`get_classifier`). Projections and heads around it are excluded.
    """
    backbones = [part for part in module.modules() if hasattr(part, "get_classifier")]
    layers = [layer for part in backbones for layer in part.modules() if isinstance(layer, (nn.Linear, _ConvNd))]
    classifiers = {id(p) for part in backbones for p in part.get_classifier().parameters()}
    return {id(layer.weight) for layer in layers} - classifiers


class Schedule:
    """Schedule of learning rates and beta2. It is a function of the step, so checkpoints do not store it.

    Learning rate: linear warm-up from 0, then cosine to `min_lr`, or x0.1 at each milestone. beta2: half a cosine
    over all steps, from `beta2_start` to `beta2_end`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: Optimizer, steps_per_epoch: int):
        self.optimizer, self.config = optimizer, config
        self.total_steps = config.epochs * steps_per_epoch
        self.learning_rate, _ = create_scheduler_v2(
            optimizer,
            sched={"cosine": "cosine", "step": "multistep"}[config.schedule],
            num_epochs=config.epochs - (config.warmup if config.schedule == "cosine" else 0),
            # Half a step later: timm compares with the next step, and would lower the rate one step early.
            decay_milestones=[milestone + 0.5 / steps_per_epoch for milestone in sorted(config.milestones)],
            decay_rate=0.1,
            min_lr=config.min_lr,
            warmup_lr=0.0,
            warmup_epochs=config.warmup,
            warmup_prefix=config.schedule == "cosine",
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
        )

    def set(self, step: int) -> None:
        self.learning_rate.step_update(step)
        if self.config.optimizer != "sgd":
            progress = (1 - math.cos(math.pi * step / self.total_steps)) / 2
            start, end = self.config.beta2_start, self.config.beta2_end
            for group in self.optimizer.param_groups:
                group["betas"] = (self.config.beta1, start + (end - start) * progress)
