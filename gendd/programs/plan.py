"""The plan: a printed description of a run before it starts."""

import copy
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from gendd.config import FIRST_FURTHER, Config
from gendd.core.distributed import World
from gendd.core.seeding import BatchPlan
from gendd.data.batch import DataSummary
from gendd.distillation.student import Student
from gendd.distillation.teacher import FrozenTeacher
from gendd.family import PAPERS, Family
from gendd.methods.dense import DenseOptions
from gendd.networks.cost import as_flops, flops, parameter_count
from gendd.networks.create import LoadedNetwork
from gendd.networks.feature_map import how_pooled
from gendd.networks.meta import META
from gendd.runs.experiment import Experiment, synchronizes_norms

# The plan warns below this number of optimizer steps.
FEW_STEPS = 1000
DECAYED = {"matrices": "weight matrices outside the head", "head-exempt": "everything outside the head"}


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
    """Return the plan, one line per aspect of the run, with the effective batch size and learning rate."""
    head = built.task.head
    size = f"{config.data.image_size}x{config.data.image_size}"
    lines = {
        "data": f"{config.data.dataset}, {summary.num_classes or 'no'} classes, {size} pixels; {summary.details}",
        "student": _network(built.student),
    }
    if built.teacher:
        lines["teacher"] = _network(built.teacher.loaded)
    for number, teacher in enumerate(built.more_teachers, FIRST_FURTHER):
        lines[f"teacher {number}"] = _network(teacher.loaded)
    lines["method"] = _method(config)
    if head is not None:
        lines["head"] = _head(config, built.task.model(), world.device)
        # The paper's protocol needs a labeled data set.
        if head.draws_features and summary.num_classes:
            protocol = family.protocol(config.method)
            lines["protocol"] = protocol if protocol == PAPERS else f"{protocol}; --paper sets the paper's"
    for number, branch in enumerate(built.task.branches or (), FIRST_FURTHER):
        size = f"{parameter_count(branch.head) / 1e6:.2f} M parameters"
        lines[f"head {number}"] = f"for {branch.head.feature_dim} numbers of teacher {number}; {size}"
    if built.task.dense is not None and built.teacher and isinstance(config.method, DenseOptions):
        lines["dense"] = _dense(config.method, built.teacher, built, config.data.image_size)
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
        words.append("no labels")
    if config.data.label_fraction < 1:
        others = "the others without labels" if config.method.unlabeled else "the others not used"
        words.append(f"labels for {100 * config.data.label_fraction:g} % of the images, {others}")
    if config.data.teacher_cache:
        words.append(
            f"teacher's features of {_counted(config.views, 'view')} per image from {config.data.teacher_cache}"
        )
    return ", ".join(words)


def _average(config: Config) -> dict[str, str]:
    use = "reported" if config.optimizer.eval_weights == "ema" else "evaluated in addition to the trained weights"
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
        words += f" (a tenth: --warmup-epochs {config.optimizer.warmup_epochs:g} would leave no other epoch)"
    return words


def steps_line(steps_per_epoch: int, epochs: int) -> str:
    """Return the plan's line about optimizer steps. It follows the plan: the images must be listed first."""
    total = steps_per_epoch * epochs
    advice = f"; this is few, most students need at least {FEW_STEPS}" if total < FEW_STEPS else ""
    return f"  {'steps':<10} {steps_per_epoch} per epoch, {total} in all{advice}"


def _batch_norm(config: Config, world: World) -> str:
    """Describe which images the batch norm statistics cover."""
    if synchronizes_norms(config, world.device, world.size):
        return f"statistics over the images of all {world.size} processes"
    reason = "; --sync-bn needs GPUs, torch does not support it on the CPU" if config.optimizer.sync_bn else ""
    return f"statistics over the images of each process{reason}"


def _head(config: Config, student: Student, device: torch.device) -> str:
    head, method = student.head, config.method
    one = torch.zeros(1, student.norm.normalized_shape[0], device=device)
    loss = loss_flops(student, config.optimizer.batch_size)
    sample = flops(lambda: head.sample(one, **method.sampling()))
    words = [f"{parameter_count(head) / 1e6:.2f} M parameters", *method.describe_head(head)]
    return "; ".join([*words, f"{as_flops(loss)} per image and loss, {as_flops(sample)} per image in use"])


def _dense(method: DenseOptions, teacher: FrozenTeacher, built: Experiment, image_size: int) -> str:
    """Describe the maps and the loss of the dense term."""
    own = method.student_map(built.student.name, built.student.network, image_size)
    return (
        f"teacher's map {how_pooled(teacher.map_side, method.dense_grid)}, {teacher.map_width} channels; student's map "
        f"{how_pooled(tuple(own.shape[2:]), method.dense_grid)}; {method.describe_dense()}; "
        f"{parameter_count(built.task.dense) / 1e6:.2f} M parameters, not used in evaluation"
    )


def loss_flops(student: Student, batch_size: int) -> int:
    """Count the FLOPs per image of the head's loss, forward, for a whole batch, without executing them.

    A single image would take other code paths through the head. The count is a CPU's: its slices of the draws are
    smaller than a GPU's, and each slice embeds all timesteps again, which costs a few percent.
    """
    head = copy.deepcopy(student.head).to(META)
    z = torch.zeros(batch_size, student.norm.normalized_shape[0], device=META)
    return round(flops(lambda: head(z, z.new_zeros(batch_size, head.feature_dim))) / batch_size)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}{'es' if what.endswith(('s', 'tch')) else 's'}"
