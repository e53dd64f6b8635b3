"""A run as one value: build it from a configuration, load it from disk, use it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from gendd.config import Config
from gendd.core.distributed import resolve_precision
from gendd.core.errors import InvalidSetting, InvalidValue, UserError, naming
from gendd.core.seeding import generator
from gendd.distillation.stored_weights import StoredWeights
from gendd.distillation.teacher import FrozenTeacher
from gendd.evaluation.accuracy import Outputs
from gendd.family import Family, family_named
from gendd.methods.base import Task, TaskContext
from gendd.network_settings import TeacherNetwork
from gendd.networks import stand_in
from gendd.networks.checkpoint import load_weights, read, reported_weights, weights_file, weights_in
from gendd.networks.create import LoadedNetwork, recompute_activations, take_classifier
from gendd.networks.external import TORCH_HUB
from gendd.networks.features import has_classifier, pooled_feature
from gendd.own import given
from gendd.own.network import Network
from gendd.runs.changes import check_changes
from gendd.runs.folder import origin, run_record, saved_config
from gendd.runs.networks import RANDOM, build_student, build_teacher
from gendd.runs.preprocessing import Preprocessing
from gendd.runs.published import located, teacher_records

Role = Literal["student", "teacher"]
ROLES: tuple[Role, ...] = ("student", "teacher")


@dataclass(repr=False)
class Experiment:
    """A configuration with its networks and the task that trains the student.

    Attributes:
        more_teachers: teachers after the first one.
        path: run folder or checkpoint file; None for an experiment that was not loaded.
        epoch: epoch at whose end the loaded weights were saved; None without loaded weights.
        class_names: name of each class, None where unknown; empty without classes.
    """

    family: Family
    config: Config
    student: LoadedNetwork
    teacher: FrozenTeacher | None
    task: Task
    more_teachers: tuple[FrozenTeacher, ...] = ()
    path: Path | None = None
    epoch: int | None = None
    class_names: tuple[str | None, ...] = ()

    def __repr__(self) -> str:
        """Return one line for notebooks, without the layers of the networks."""
        teachers = " + ".join(self.config.networks.teacher_names)
        networks = " > ".join(filter(None, (teachers, self.config.networks.student)))
        place = f"{self.path or 'not loaded'}" + (f", after epoch {self.epoch}" if self.epoch is not None else "")
        return f"<{type(self).__name__} {place}: {self.config.method.name}, {networks}>"

    @property
    def model(self) -> nn.Module:
        """The trained model. In a GenDD run it is the `Student`: backbone, head and probe."""
        return self.task.model()

    @property
    def backbone(self) -> nn.Module:
        """The plain student, with the probe as its classifier."""
        return self.student.network

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the evaluation. It converts images or files to the input of the other methods."""
        return Preprocessing.of(self.backbone, self.config.data)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `predict`, the reported one first. head_<label> belongs to a further teacher."""
        return tuple(name for each in self._outputs() for name in each.names)

    def _outputs(self) -> list[Outputs]:
        further = self.task.further_outputs(self.model)
        return [self.task.outputs(self.model), *(output for output, _ in further)]

    @torch.inference_mode()
    def features(self, images: Tensor) -> Tensor:
        """Return the backbone's pooled features (B, D_s) of preprocessed images (B, 3, S, S)."""
        return pooled_feature(self.backbone.eval(), self._placed(images))

    @torch.inference_mode()
    def predict(self, images: Tensor, output: str | None = None) -> Tensor:
        """Return an output for preprocessed images (B, 3, S, S), with the run's sampling.

        Args:
            output: one of `outputs`, such as "head" or "probe"; the reported one if not given.

        Returns:
            Logits (B, C); features (B, D_t) in the teacher's units for a student without classes, or for the head of a
            further teacher.

        Raises:
            InvalidValue: the student does not have this output.
        """
        self.model.eval()
        name = self.outputs[0] if output is None else output
        if name not in self.outputs:
            raise InvalidValue(name, f"no such output; this student has {', '.join(self.outputs)}")
        outputs = next(each for each in self._outputs() if name in each.names)
        noise = generator(self.device, self.config.run.seed, "evaluation", 0)
        return outputs.compute(self._placed(images), noise)[name]

    @torch.inference_mode()
    def dense(self, images: Tensor, teacher: str | None = None) -> Tensor:
        """Return the map (B, D_m, h, w) in a teacher's space, at the resolution of the student's map.

        Args:
            images: preprocessed images (B, 3, H, W).
            teacher: name of the teacher; the first one if not given.

        Raises:
            UserError: the run was trained without a dense term, or without this teacher.
        """
        if self.task.dense is None:
            raise UserError("the run does not have a dense head; train with `dense_grid`, such as 4")
        number = self.number_of(teacher)
        model = self.model.eval()
        dense = model.branches[number - 1].dense if number else model.dense
        return dense.generate(self.backbone.eval(), self._placed(images))

    def _placed(self, images: Tensor) -> Tensor:
        """Return preprocessed images on the run's device; warn if they do not look normalized.

        Raises:
            UserError: they are not a batch of preprocessed images.
        """
        if not (isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4):
            kind = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(
                f"images: {kind}; give preprocessed ones (B, 3, S, S), which `preprocessing` makes of files"
            )
        doubt = self.preprocessing.doubt(float(images.min()), float(images.max())) if len(images) else ""
        if doubt:
            warnings.warn(f"images: {doubt}", stacklevel=4)
        return images.to(self.device, next(self.model.parameters()).dtype)

    def number_of(self, teacher: str | None) -> int:
        """Return the place of a teacher among the run's, from 0, by its name or its label; 0 for None.

        Raises:
            InvalidSetting: the run does not have this teacher.
        """
        networks = self.config.networks
        names, labels = networks.teacher_names, networks.more_labels
        if teacher is None:
            return 0
        if teacher in labels:
            return 1 + labels.index(teacher)
        if teacher not in names:
            raise InvalidSetting("teacher", teacher, f"the run's teachers are {', '.join(names) or 'none'}; name one")
        return names.index(teacher)

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device

    def export(self, folder: str | Path | None = None, **options: Any) -> Path:
        """Write the student to a file that runs without this project, and return the file.

        Args:
            folder: `export` in the run folder if not given.
            options: see `gendd.export.student.export_student`.
        """
        from gendd.export.student import export_student

        return export_student(self, folder=folder, **options)[0]

    def report(self, folder: str | Path | None = None) -> Path:
        """Write a report on this run, and return its folder: `report` in the run folder if not given.

        Raises:
            UserError: the run is not complete, or the folder cannot be written.
        """
        from gendd.reporting.report import ReportConfig, write_report

        if self.path is None:
            raise UserError("the experiment was not loaded from a run, so there is nothing to report")
        target = Path(folder) if folder else self.path / "report"
        write_report(ReportConfig((str(self.path),), str(target)))
        return target


def load(
    path: str | Path,
    family: Family | None = None,
    device: torch.device | None = None,
    trained: bool = True,
    with_teacher: bool = False,
    on_dataset: str | None = None,
    **changes: Any,
) -> Experiment:
    """Load a run from its folder or from one of its checkpoints.

    Args:
        path: run folder (its last checkpoint), a checkpoint file, or a published student: its folder,
            "local-dir:FOLDER" or "hf-hub:OWNER/NAME".
        family: family that the run must belong to; not checked if not given.
        device: device of the networks; the CPU if not given.
        trained: load the run's weights; otherwise they are random, for measurements of speed and size.
        with_teacher: load the teacher's weights too. The student does not need them.
        on_dataset: another data set, used whole in place of the run's images.
        changes: values of the configuration that replace the run's values. A run of networks that were given as Python
            objects needs them again: student=network.

    Raises:
        UserError: the path is not a run, the run is damaged, or it belongs to another family; or a value in `changes`
            is not valid, or the head was not trained for it.
    """
    path = located(path)
    own = {role: changes.pop(role) for role in ROLES if isinstance(changes.get(role), nn.Module | Network)}
    with naming("RUN"):
        content = read(weights_file(path)) if trained or not path.is_dir() else {}
    record = run_record(path)
    family = family or family_named(record.get("family"))
    config = saved_config(record, family, path)
    if on_dataset:
        config = replace(config, data=config.data.whole(on_dataset))
    trained_with, device = config, device or torch.device("cpu")
    config = config.changed(**changes)
    if changes:
        check_changes(trained_with, config)
    weights = changes.get("eval_weights") or reported_weights(content)
    tensors = weights_in(content, path, weights) if trained else None
    # A checkpoint holds the student's weights and the part of the teacher that the student uses.
    whole = with_teacher or not config.networks.teacher
    stripped = {} if whole else without_teacher(path, config, tensors or {}, "teacher" in own)
    random = {"student_weights": None} | stripped
    # The precision of a teacher that is loaded; a part of one that the student uses is not rounded.
    precision = resolve_precision(config.run.precision, device) if with_teacher else "fp32"
    with given.networks(config.data.image_size, **own) as names:
        changed = config.changed(**random | names)
        for role in set(ROLES) - changes.keys():
            refuse_hub_code(path, role, getattr(changed.networks, role))
        for further in changed.networks.more_teachers:
            refuse_hub_code(path, "teacher", further.teacher)
        experiment = build(family, changed, len(record["classes"]), device, tensors, precision)
    experiment.config, experiment.task.more_labels = config, config.networks.more_labels
    experiment.task.eval()
    if tensors:
        with naming("RUN"):
            load_weights(experiment.model, tensors, str(path))
    experiment.path, experiment.epoch = path, content.get("epoch") or origin(path).get("epoch")
    experiment.class_names = tuple(record["classes"])
    return experiment


def is_published(path: Path) -> bool:
    """Return whether a file states the width of the teacher's feature, so that the teacher is not needed."""
    return "classifies" in (origin(path).get("teacher") or {})


def without_teacher(path: Path, config: Config, tensors: Mapping[str, Tensor], given: bool = False) -> dict[str, Any]:
    """Return the changes of a configuration for a student with these tensors, loaded without its teacher's weights.

    Args:
        given: whether the teacher is a Python object.
    """
    if StoredWeights.named(config.networks.teacher_weights):
        return {}
    records = teacher_records(path)
    teacher, further = records.get("teacher") or {}, records.get("more_teachers", [])
    if given or "classifies" not in teacher:  # Runs of older versions do not record it.
        # A teacher of other classes than the data's leaves no classifier in its student.
        alone = "head" in {name.partition(".")[0] for name in tensors} and "classifier.weight" not in tensors
        classless = alone and not config.method.needs_classifier(config)
        untrained = tuple(replace(one, teacher_weights=RANDOM) for one in config.networks.more_teachers)
        return {"teacher_weights": RANDOM, "more_teachers": untrained} | (
            {"teacher_classifier": False} if classless else {}
        )
    map_width = teacher.get("map_width", 0)
    unset = dict.fromkeys(
        ("teacher_image_size", "teacher_mean", "teacher_std", *(["dense_layer"] if map_width else []))
    )
    sizes = {"teacher": stand_in.named(teacher["width"], map_width), "teacher_classifier": teacher["classifies"]}
    names = (stand_in.named(one["width"], one.get("map_width", 0)) for one in further)
    others = tuple(TeacherNetwork(name, RANDOM) for name in names)
    return {"teacher_weights": RANDOM, "teacher_feature": "auto", "more_teachers": others, **unset, **sizes}


def refuse_hub_code(path: Path, role: str, name: str | None) -> None:
    """Refuse a network of torch.hub in a published file: using the file would run the code of that repository.

    Raises:
        InvalidSetting: the file names such a network.
    """
    if (name or "").startswith(TORCH_HUB) and origin(path):
        reason = "a published file may not run code of torch.hub; clone the repository, and name hub:FOLDER:ENTRY"
        raise InvalidSetting(role, name, reason)


def build(
    family: Family,
    config: Config,
    num_classes: int,
    device: torch.device,
    trained: dict[str, Tensor] | None = None,
    precision: str = "fp32",
    processes: int = 1,
) -> Experiment:
    """Build the student, the frozen teacher and the task on the device; one seed gives the same initial weights.

    Args:
        trained: tensors of a trained student, for methods that start from one; read from the configuration's file
            if not given.
        precision: precision of the teacher, "bf16" or "fp32".
        processes: number of processes that train together.
    """
    torch.manual_seed(generator("cpu", config.run.seed, "initial weights").initial_seed())
    # Without labels the student's classifier learns the classes of the teacher.
    classes = num_classes if not config.data.unlabeled or config.networks.teacher_classifier else 0
    networks, image_size = config.networks, config.data.image_size
    student = build_student(
        *(networks.student, networks.student_weights, family.zoo, classes, image_size, networks.allow_partial),
        config.run.trust_remote_code,
    )
    teacher = None
    if networks.teacher:
        teacher = build_teacher(config, family.zoo, num_classes, student.network, device, precision)
        if config.data.unlabeled and not teacher.has_classifier and has_classifier(student.network):
            with naming("student"):
                take_classifier(networks.student, student.network)
    further = tuple(
        build_teacher(one, family.zoo, num_classes, student.network, device, precision)
        for one in config.of_more_teachers
    )
    context = TaskContext(config, student.network, teacher, trained or student.tensors, device, further)
    task = config.method.build(context).to(device, memory_format=torch.channels_last)
    if synchronizes_norms(config, device, processes):
        # Works in place, except for a module that is itself a norm. Must precede `_recompute`, which hooks the norms.
        convert_sync_batchnorm(task.trainable_module)
    _recompute(config, student, task)
    return Experiment(family, config, student, teacher, task, further)


def synchronizes_norms(config: Config, device: torch.device, processes: int) -> bool:
    """Return True if batch norm statistics are computed over all processes; torch supports this on GPUs only."""
    return config.optimizer.sync_bn and processes > 1 and device.type == "cuda"


def _recompute(config: Config, student: LoadedNetwork, task: Task) -> None:
    """Turn on gradient checkpointing for the parts that the configuration names."""
    if config.networks.grad_checkpointing in ("student", "both"):
        with naming("grad_checkpointing", config.networks.grad_checkpointing):
            recompute_activations(student.name, student.network)
    if config.networks.grad_checkpointing in ("head", "both"):
        if task.head is not None and task.head.draws_features:
            for head in (task.head, *(branch.head for branch in task.branches or ())):
                head.set_grad_checkpointing(True)
        elif config.networks.grad_checkpointing == "head":
            raise InvalidSetting(
                "grad_checkpointing", "head", f"{config.method.name} does not use a head; choose student or none"
            )


def teacher_output(teacher: FrozenTeacher) -> Outputs:
    """Return the teacher's logits as an output; its images have the student's normalization."""
    return Outputs(("teacher",), lambda images, _: {"teacher": teacher.logits_of(images)})
