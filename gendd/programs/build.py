"""Networks with their weights, and the task around them, as a configuration names them."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from gendd import checkpoint, hub, timm_sources
from gendd.config import TrainConfig
from gendd.errors import Absent, Missing, UserError, naming
from gendd.evaluation import ReadOut
from gendd.methods.base import Task, TaskContext
from gendd.networks import Names, as_flops, create_network, parameter_count, recompute_activations, trial
from gendd.programs.tree import Tree
from gendd.randomness import generator
from gendd.runs import student_weights
from gendd.teacher import FrozenTeacher

# In place of a file's path, on the command line: a trial of a recipe needs no trained teacher.
RANDOM = "random"


@dataclass
class BuiltNetwork:
    """A network, the tensors it was filled from (a distilled student's file holds more than the network), their
    file, and a word on them and on the normalization of its images, if it is not its own, for the plan."""

    name: str
    network: nn.Module
    flops: int
    tensors: dict[str, Tensor] = field(default_factory=dict)
    file: Path | None = None
    loaded: str = "random weights"
    normalization: str = ""

    def describe(self) -> str:
        size = f"{parameter_count(self.network) / 1e6:.2f} M parameters, {as_flops(self.flops)} per image"
        return f"{self.name}: {size}{self.normalization}"


def build_network(
    role: str,
    name: str,
    weights: str | None,
    names: Names,
    num_classes: int,
    image_size: int,
    allow_partial: bool | None = False,
    missing: list[str] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> BuiltNetwork:
    """Create the network of a role, "teacher" or "student", and fill it.

    Args:
        weights: a file, a run folder, "timm": those that timm publishes, or "random", as None: for trials.
        allow_partial: as `checkpoint.load_weights` has it.
        mean, std: of its images, in [0, 1] units, in place of those that the network states.
        missing: collects what is absent instead of refusing it, and without a look at the hub (dry runs).

    Raises:
        UserError: unknown name, absent or unfit weights, another class count than the data's.
    """
    with naming(f"--{role}"):
        network = create_network(name, names, num_classes, image_size)
        built = BuiltNetwork(name, network, trial(name, network, image_size))
    built.normalization = _normalize(network, mean, std)
    if weights in (None, RANDOM):
        return built
    try:
        with naming(f"--{role}-weights"):
            file, tensors = _find(name, weights, names, image_size, fetch=missing is None)
            plain, teaches = checkpoint.backbone_weights(tensors), role == "teacher"
            summary = checkpoint.load_weights(network, plain, weights, allow_partial, needs_classifier=teaches)
    except Absent as absent:
        if missing is None:
            raise
        missing.append(str(absent))
        return built
    built.file, built.tensors, built.loaded = file, tensors, f"{summary} from {file}{tensors.note}"
    return built


def _normalize(network: nn.Module, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> str:
    """Set the normalization of a network's images, where one is given; a word on what it does not state itself."""
    cfg = network.pretrained_cfg
    assumed = cfg.get("assumed") and not (mean and std)
    if not assumed and not mean and not std:
        return ""
    cfg = network.pretrained_cfg = {**cfg, "mean": mean or cfg["mean"], "std": std or cfg["std"]}
    values = f"; images with mean {_numbers(cfg['mean'])} and std {_numbers(cfg['std'])}"
    return f"{values}, this tree's: its pretrained_cfg states none" if assumed else values


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _find(name: str, weights: str, names: Names, image_size: int, fetch: bool) -> tuple[Path, checkpoint.Weights]:
    """The file of a network's weights, and its tensors by the network's names."""
    if weights != hub.TIMM:
        file = checkpoint.weights_file(weights)
        if not file.exists() and "pretrained" in file.parts:
            raise Missing(f"{weights}: no such file; {names.remedy.format(name=name)}")
        return file, checkpoint.read_weights(weights)
    if timm_sources.is_source(name):
        file = timm_sources.find(name, timm_sources.WEIGHTS, fetch)
        return file, checkpoint.read_weights(file)
    published = hub.published(name, names.in_timm(name))
    file = published.at_hand() or (published.fetch() if fetch else None)
    if not file:
        raise published.absent()
    return file, published.read(checkpoint.read_weights(file), image_size)


@dataclass
class Built:
    student: BuiltNetwork
    teacher: BuiltNetwork | None
    task: Task


def build(
    tree: Tree,
    config: TrainConfig,
    num_classes: int,
    device: torch.device,
    missing: list[str] | None = None,
    trained: dict[str, Tensor] | None = None,
    precision: str = "fp32",
    processes: int = 1,
) -> Built:
    """The configuration's student, frozen teacher and task, on the device; same seed, same initial weights.

    Args:
        missing: collects absent weights instead of refusing them (dry runs).
        trained: tensors of a trained student, for a method that cannot be built without; read from the
            configuration's file if not given.
        precision: of the teacher, "bf16" or "fp32".
        processes: that train together.
    """
    torch.manual_seed(generator("cpu", config.seed, "initial weights").initial_seed())
    shape = (tree.names, num_classes, config.image_size, config.allow_partial, missing)
    student = build_network("student", config.student, student_weights(config), *shape)
    teacher = frozen = None
    if config.teacher:
        normalization = (config.teacher_mean, config.teacher_std)
        teacher = build_network("teacher", config.teacher, config.teacher_weights, *shape, *normalization)
        frozen = FrozenTeacher(teacher.network, student.network, device, precision, config.teacher_chunk)
    context = TaskContext(config, student.network, frozen, trained or student.tensors, device)
    task = config.method.build(context).to(device, memory_format=torch.channels_last)
    if synchronizes_norms(config, device, processes):
        # In place but for a norm by itself, which is no network. Recomputation hooks itself to the new norms.
        convert_sync_batchnorm(task.get_trainable_module())
    _recompute(config, student, task)
    return Built(student, teacher, task)


def synchronizes_norms(config: TrainConfig, device: torch.device, processes: int) -> bool:
    """Whether batch norm takes its statistics over the images of all processes; torch has kernels for GPUs alone."""
    return config.sync_bn and processes > 1 and device.type == "cuda"


def _recompute(config: TrainConfig, student: BuiltNetwork, task: Task) -> None:
    """Gradient checkpointing of the parts that the configuration names."""
    flag = f"--grad-checkpointing {config.grad_checkpointing}"
    if config.grad_checkpointing in ("student", "both"):
        with naming(f"{flag}:"):
            recompute_activations(student.name, student.network)
    if config.grad_checkpointing in ("head", "both"):
        if task.head is not None and task.head.draws_features:
            task.head.set_grad_checkpointing(True)
        elif config.grad_checkpointing == "head":
            raise UserError(f"{flag}: {config.method.name} has no head; choose student or none")


def teacher_read_out(teacher: FrozenTeacher) -> ReadOut:
    """The teacher, on images in the student's normalization."""
    return ReadOut(("teacher",), lambda images, _: {"teacher": teacher.logits_of(images)})


@contextlib.contextmanager
def noting(missing: list[str]):
    """Adds what is refused in the block, in a dry run, to what is missing."""
    try:
        yield
    except UserError as error:
        missing.append(str(error))


def list_missing(missing: list[str]) -> str:
    """What a dry run found absent, or not to go together, a line each."""
    return "\n".join(["missing or wrong:", *(f"  {line}" for line in missing)]) if missing else "all there"
