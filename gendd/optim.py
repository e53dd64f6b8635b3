"""Optimiser, parameter groups, and the schedules of learning rate and beta2, a step at a time."""

import math

import torch
from timm.optim import Muon
from timm.scheduler import create_scheduler_v2
from torch import nn

from gendd.config import TrainConfig
from gendd.student import Student


def parameter_groups(module: nn.Module, config: TrainConfig) -> list[dict]:
    """Trained parameters in three groups: weights, and what is not decayed: vectors (norms, biases), and the head.

    The head has a learning rate of its own.
    """
    head = {id(p) for part in module.modules() if isinstance(part, Student) for p in part.head.parameters()}
    trained = [p for p in module.parameters() if p.requires_grad]
    backbone = [p for p in trained if id(p) not in head]
    groups = [
        {"params": [p for p in backbone if p.dim() > 1], "weight_decay": config.weight_decay, "lr": config.lr},
        {"params": [p for p in backbone if p.dim() <= 1], "weight_decay": 0.0, "lr": config.lr},
        {"params": [p for p in trained if id(p) in head], "weight_decay": 0.0, "lr": config.head_lr or config.lr},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    groups, betas = parameter_groups(module, config), (config.beta1, config.beta2_start)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=config.momentum, fused=True)
    if config.optimizer == "muon":
        return Muon(_muon_groups(module, groups), momentum=config.momentum, nesterov=True, betas=betas)
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def _muon_groups(module: nn.Module, groups: list[dict]) -> list[dict]:
    """The same groups, of which Muon takes the backbone's weights but for its classifier's, and NAdamW the rest."""
    classifiers = {id(part.get_classifier().weight) for part in module.modules() if hasattr(part, "get_classifier")}
    weights, *others = groups
    hidden, outputs = ([p for p in weights["params"] if (id(p) in classifiers) == last] for last in (False, True))
    others = [{**weights, "params": outputs}, *others]
    groups = [{**weights, "params": hidden}, *({**group, "use_fallback": True} for group in others)]
    return [group for group in groups if group["params"]]


class Schedule:
    """Sets learning rates and beta2 for a step. It holds no state, so resuming needs none.

    Learning rate: linear warm-up from 0, then cosine to 0, or x0.1 at each milestone. beta2: half a cosine over
    all steps, from `beta2_start` to `beta2_end`.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int):
        self.optimizer, self.config = optimizer, config
        self.total_steps = config.epochs * steps_per_epoch
        self.learning_rate, _ = create_scheduler_v2(
            optimizer,
            sched={"cosine": "cosine", "step": "multistep"}[config.schedule],
            num_epochs=config.epochs - (config.warmup_epochs if config.schedule == "cosine" else 0),
            # Half a step on: timm compares with the step to come, and would lower the rate one step early.
            decay_milestones=[milestone + 0.5 / steps_per_epoch for milestone in sorted(config.milestones)],
            decay_rate=0.1,
            min_lr=0.0,
            warmup_lr=0.0,
            warmup_epochs=config.warmup_epochs,
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
