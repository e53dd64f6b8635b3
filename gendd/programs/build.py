"""Networks with their weights, and the task around them, as a configuration names them."""

from dataclasses import dataclass

import torch
from timm.task import DistillationTeacher, TrainingTask
from torch import Tensor, nn

from gendd import checkpoint
from gendd.config import TrainConfig
from gendd.errors import UserError
from gendd.evaluation import ReadOut
from gendd.methods import Ingredients, get_method
from gendd.networks import Names, create_network, flops, parameter_count
from gendd.programs.tree import Tree
from gendd.randomness import generator
from gendd.runs import student_weights


@dataclass
class BuiltNetwork:
    """A network, the tensors it was filled from (a distilled student's file holds more than the network), and
    a word on them for the plan."""

    name: str
    network: nn.Module
    tensors: dict[str, Tensor]
    loaded: str
    flops: int

    def describe(self) -> str:
        size = f"{parameter_count(self.network) / 1e6:.2f} M parameters, {self.flops / 1e6:.1f} MFLOPs an image"
        return f"{self.name}: {size}"


def build_network(
    role: str,
    name: str,
    weights: str | None,
    names: Names,
    num_classes: int,
    image_size: int,
    allow_partial: bool = False,
    missing: list[str] | None = None,
) -> BuiltNetwork:
    """Create the network of a role, "teacher" or "student", and fill it.

    Args:
        missing: collects what is absent instead of refusing it (dry runs).

    Raises:
        UserError: unknown name, absent or unfit weights, another class count than the data's.
    """
    network, flag = create_network(f"--{role}", name, names, num_classes, image_size), f"--{role}-weights"
    image = torch.zeros(1, 3, image_size, image_size)
    built = BuiltNetwork(name, network, {}, "random weights", flops(lambda: network.eval()(image)))
    if weights is None:
        return built
    file = checkpoint.weights_file(weights)
    if missing is not None and not file.exists():
        missing.append(f"{flag} {weights}: no such file; {checkpoint.where_from(file, name)}")
        return built
    tensors = checkpoint.read_weights(weights, flag)
    plain = checkpoint.backbone_weights(tensors)
    _check_classes(network, plain, flag, weights, num_classes)
    summary = checkpoint.load_weights(network, plain, flag, weights, allow_partial)
    built.tensors, built.loaded = tensors, f"{summary} from {weights}"
    return built


def _check_classes(network: nn.Module, tensors: dict[str, Tensor], flag: str, weights: str, num_classes: int) -> None:
    classifier = next(name for name, module in network.named_modules() if module is network.get_classifier())
    theirs = tensors.get(f"{classifier}.weight")
    if theirs is not None and len(theirs) != num_classes:
        raise UserError(
            f"{flag} {weights}: made for {len(theirs)} classes, the data set has {num_classes}; choose the --dataset "
            "it was trained on, or other weights"
        )


@dataclass
class Built:
    student: BuiltNetwork
    teacher: BuiltNetwork | None
    task: TrainingTask


def build(
    tree: Tree,
    config: TrainConfig,
    num_classes: int,
    device: torch.device,
    missing: list[str] | None = None,
    trained: dict[str, Tensor] | None = None,
) -> Built:
    """The configuration's student, frozen teacher and task, on the device; same seed, same initial weights.

    Args:
        missing: collects absent weights instead of refusing them (dry runs).
        trained: tensors of a trained student, for a method that cannot be built without; read from the
            configuration's file if not given.
    """
    torch.manual_seed(generator("cpu", config.seed, "initial weights").initial_seed())
    shape = (tree.names, num_classes, config.image_size, config.allow_partial, missing)
    student = build_network("student", config.student, student_weights(config), *shape)
    teacher = None
    if config.teacher:
        teacher = build_network("teacher", config.teacher, config.teacher_weights, *shape)
    frozen = freeze(teacher.network, device) if teacher else None
    ingredients = Ingredients(config, student.network, frozen, trained or student.tensors, device)
    task = get_method(config.method).build(ingredients).to(device, memory_format=torch.channels_last)
    return Built(student, teacher, task)


def freeze(network: nn.Module, device: torch.device) -> DistillationTeacher:
    """The network as a teacher: on the device, channels last, not trained."""
    network = network.to(device, memory_format=torch.channels_last).requires_grad_(False)
    return DistillationTeacher(network, device=device)


def teacher_read_out(task: TrainingTask) -> ReadOut:
    """The teacher of a task, on images in the student's normalisation."""

    def logits(images: Tensor, _: torch.Generator) -> dict[str, Tensor]:
        return {"teacher": task.teacher(task.teacher.normalize_input(images, task.student_mean, task.student_std))}

    return ReadOut(("teacher",), logits)


def list_missing(missing: list[str]) -> str:
    """What a dry run found absent, a line each."""
    return "\n".join(["missing:", *(f"  {line}" for line in missing)]) if missing else "all there"
