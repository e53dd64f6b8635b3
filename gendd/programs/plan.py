"""What a run is about to do, in words."""

from pathlib import Path

import torch
from timm.utils import unwrap_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from gendd.config import Config
from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.data.batch import DataSummary
from gendd.distill.student import Student
from gendd.family import PAPERS, Family
from gendd.networks.cost import as_flops, flops, parameter_count
from gendd.runs.experiment import Experiment, LoadedNetwork, synchronizes_norms

# Optimizer steps of a training below which the plan warns.
FEW_STEPS = 1000
DECAYED = {"matrices": "weight matrices but the head's", "head-exempt": "all but the head"}


def plan_of(
    family: Family,
    config: Config,
    summary: DataSummary,
    built: Experiment,
    batches: BatchPlan,
    world: World,
    precision: str,
    results: Path,
) -> str:
    """The plan, a line for each aspect of the run; batch and learning rate are those in effect."""
    head = built.task.head
    size = f"{config.data.image_size}x{config.data.image_size}"
    lines = {
        "data": f"{config.data.dataset}, {summary.num_classes or 'no'} classes, {size} pixels; {summary.details}",
        "student": _network(built.student),
    }
    if built.teacher:
        lines["teacher"] = _network(built.teacher.loaded)
    lines["method"] = _method(config)
    if head is not None:
        lines["head"] = _head(config, unwrap_model(built.task.get_eval_model()), world.device)
        # The paper's protocol is one of labeled data sets.
        if head.draws_features and summary.num_classes:
            protocol = family.protocol(config.method)
            lines["protocol"] = protocol if protocol == PAPERS else f"{protocol}; --paper sets the paper's"
    if world.size > 1 and any(isinstance(module, _BatchNorm) for module in built.student.network.modules()):
        lines["batch norm"] = _batch_norm(config, world)
    factors = [
        _counted(batches.world, "process"),
        _counted(config.optimizer.grad_accum_steps, "micro-batch"),
        f"{batches.micro_batch_size} images",
    ]
    head_rate = f" (head {config.optimizer.head_lr or config.optimizer.lr:g})" if head is not None else ""
    lines |= {
        "batch": f"{config.optimizer.batch_size} images per step = {' x '.join(factors)}",
        "optimizer": f"{config.optimizer.optimizer}, learning rate {config.optimizer.lr:g}{head_rate}, "
        f"weight decay {config.optimizer.weight_decay:g} of {DECAYED[config.optimizer.decay]}",
        "schedule": f"{_schedule(config)}, {_warmup(config)}",
        **_average(config),
        "hardware": f"{world.describe()}, {precision}",
        "results": str(results.absolute()),
    }
    return "\n".join(["plan", *(f"  {name:<10} {text}" for name, text in lines.items())])


def _network(loaded: LoadedNetwork) -> str:
    return f"{loaded.describe()}; {loaded.describe_weights()}"


def _method(config: Config) -> str:
    words = [config.method.describe()]
    if config.data.unlabeled:
        words.append("no label is read")
    if config.data.label_fraction < 1:
        others = "the others without" if config.method.unlabeled else "the others left out"
        words.append(f"{100 * config.data.label_fraction:g} % of the images with labels, {others}")
    if config.data.teacher_cache:
        words.append(
            f"teacher's features of {_counted(config.views, 'view')} per image from {config.data.teacher_cache}"
        )
    return ", ".join(words)


def _average(config: Config) -> dict[str, str]:
    use = "reported" if config.optimizer.eval_weights == "ema" else "evaluated beside the trained ones"
    return (
        {"average": f"of the weights, decay {config.optimizer.ema_decay:g}, {use}"}
        if config.optimizer.ema_decay
        else {}
    )


def _schedule(config: Config) -> str:
    return (
        f"cosine to {config.optimizer.min_lr:g}" if config.optimizer.schedule == "cosine" else config.optimizer.schedule
    )


def _warmup(config: Config) -> str:
    words = f"warm-up {config.optimizer.warmup:g} of {_counted(config.optimizer.epochs, 'epoch')}"
    if config.optimizer.warmup != config.optimizer.warmup_epochs:
        words += f" (a tenth: --warmup-epochs {config.optimizer.warmup_epochs:g} is not shorter)"
    return words


def steps_line(steps_per_epoch: int, epochs: int) -> str:
    """The plan's line of the optimizer steps, which are known once the images are listed."""
    total = steps_per_epoch * epochs
    advice = f"; few, most students need {FEW_STEPS}" if total < FEW_STEPS else ""
    return f"  {'steps':<10} {steps_per_epoch} per epoch, {total} in all{advice}"


def _batch_norm(config: Config, world: World) -> str:
    """Whose images its statistics are of."""
    if synchronizes_norms(config, world.device, world.size):
        return f"statistics of the images of all {world.size} processes"
    reason = "; --sync-bn needs GPUs, torch has no kernels for the CPU" if config.optimizer.sync_bn else ""
    return f"statistics of each process's own images{reason}"


def _head(config: Config, student: Student, device: torch.device) -> str:
    head, method = student.head, config.method
    one = torch.zeros(1, student.norm.normalized_shape[0], device=device)
    loss = loss_flops(student, config.optimizer.batch_size, device)
    sample = flops(lambda: head.sample(one, **method.sampling()))
    words = [f"{parameter_count(head) / 1e6:.2f} M parameters", *method.describe_head(head)]
    return "; ".join([*words, f"{as_flops(loss)} per image and loss, {as_flops(sample)} per image in use"])


def loss_flops(student: Student, batch_size: int, device: torch.device) -> int:
    """Floating-point operations per image of the head's loss, forward, of a whole batch: one image alone takes other
    ways through the head than many do. They are counted, not carried out."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        z = torch.zeros(batch_size, student.norm.normalized_shape[0], device=device)
        return round(flops(lambda: student.head(z, z.new_zeros(batch_size, student.head.feature_dim))) / batch_size)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith(('s', 'tch')) else 's'}"
