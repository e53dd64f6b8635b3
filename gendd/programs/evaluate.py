"""The evaluate program of both families: accuracy, size and measured speed of the teacher and of each output."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

import torch
import tyro
from torch import Tensor, nn

from gendd.config import Config, D
from gendd.core.distributed import World, autocast, join_world, resolve_precision
from gendd.core.errors import InvalidSetting, MissingFile, UserError, naming, with_flags
from gendd.core.files import checksum
from gendd.core.ranges import field_names
from gendd.core.seeding import BatchPlan
from gendd.data.batch import EvaluationData, described
from gendd.evaluation.accuracy import Outputs, class_groups, evaluate_with_cost
from gendd.family import Family
from gendd.methods.gendd import GenDD
from gendd.methods.options import SamplingOptions
from gendd.methods.published import method_of
from gendd.networks.checkpoint import Tensors, load_weights, read, reported_weights, weights_file, weights_in
from gendd.networks.cost import parameter_count
from gendd.programs.command_line import parse
from gendd.programs.dry_run import errors_of, list_missing, note_absent, refuse_missing, without_absent
from gendd.programs.evaluation_table import print_table
from gendd.programs.figures import figures_file, other_data, write_figures
from gendd.programs.teacher_flags import refuse_several
from gendd.runs.changes import check_changes, check_held_out
from gendd.runs.environment import environment
from gendd.runs.experiment import (
    Experiment,
    build,
    is_published,
    load,
    refuse_hub_code,
    teacher_output,
    without_teacher,
)
from gendd.runs.folder import (
    RunFolder,
    check_classes,
    class_subset,
    embedded_record,
    learned_classes,
    progress,
    saved_config,
)
from gendd.runs.published import located


@dataclass(frozen=True)
class EvaluateOptions(Generic[D]):
    """Evaluate a run or a checkpoint: accuracy, size and speed of the teacher and of each output of the student.

    The other flags are the flags of train, with the values of the run. The whole data set of the run is evaluated.
    """

    config: Config[D]
    checkpoint: tyro.conf.Positional[str] = ""
    """Run folder, a checkpoint file, or a published student: its folder, hf-hub:<owner>/<name> or
    local-dir:<folder>."""
    best: bool = False
    """Evaluate the run's best checkpoint instead of its last."""
    json: str | None = None
    """File for the figures; evaluation.json in the run folder if not given. Images, their size, weights or
    sampling other than the run's are in the name, as in evaluation-best.json."""


def evaluate_checkpoint(family: Family, arguments: list[str]) -> None:
    """Evaluate the run or checkpoint that the first argument names.

    Raises:
        UserError: something in the command, the data or the checkpoint cannot work.
    """
    if arguments[:1] in (["-h"], ["--help"]):
        _parse(family, arguments, family.config(GenDD()))
    if not arguments or arguments[0].startswith("-"):
        raise UserError("CHECKPOINT is missing: name a run folder or a checkpoint file first, then the flags")
    refuse_several(arguments, "names the first teacher, and the run names the further ones; give the flag once")
    with join_world() as world:
        options, settings, tensors, epoch = _read(family, arguments)
        path, file = Path(options.checkpoint), _file(options)
        if world.is_first:
            _figures(options)
        summary = family.access.summarize(settings)
        if summary.num_classes is None:
            raise UserError("; ".join(summary.missing))
        missing = list(summary.missing)
        # The images may cover only some of the run's classes.
        classes = max(summary.num_classes, len(learned_classes(path)))
        settings, absent = without_absent(settings, family.zoo) if settings.run.dry_run else (settings, {})
        missing += absent.values()
        options = replace(options, config=settings)
        built, teacher = _build(family, options, classes, world, tensors)
        note_absent(built, absent)
        model = built.task.model()
        if tensors:
            with naming("CHECKPOINT"):
                loaded = load_weights(model, tensors, options.checkpoint)
        else:
            missing, loaded = [*missing, f"checkpoint {options.checkpoint}: no such file"], "nothing loaded"
        if world.is_first:
            reached = progress(path, epoch)
            print(f"checkpoint  {options.checkpoint}: {loaded}, {settings.optimizer.eval_weights} weights{reached}")
            print(f"student     {built.student.describe()}", flush=True)
            if teacher:
                print(f"teacher     {teacher}", flush=True)
            for label, one in zip(built.task.more_labels, built.more_teachers, strict=False):
                print(f"head_{label} is compared with {one.loaded.describe()}; {one.loaded.describe_weights()}")
            head = built.task.head
            # The paper's protocol needs a labeled data set.
            if head is not None and head.draws_features and classes:
                of_run = path.is_dir() or bool(embedded_record(path))
                print(f"protocol    {family.protocol(settings.method, of_run)}", flush=True)
        if settings.run.dry_run:
            if not summary.missing:
                missing += errors_of(lambda: _open_data(family, settings, options, built, world))
            if world.is_first:
                print(list_missing(missing))
            refuse_missing(missing)
            return
        data, groups = _open_data(family, settings, options, built, world)
        figures = _figures(options, *_differing(family, options, data)) if world.is_first else None
        rows = _measure(built, model, data, groups, class_subset(path, data.class_names), world)
        if world.is_first:
            print_table(rows, list(groups), _images(data, settings), settings, world)
        if figures:
            print()
            write_figures(figures, _content(rows, data, options, file, epoch, world))


def evaluate(path: str | Path, **changes: Any) -> dict[str, dict]:
    """Evaluate a run on its test images in this process, with the same results as the program.

    Args:
        path: run folder (its last checkpoint), a checkpoint file, or a published student, as `gendd.load` takes it.
        changes: values of the configuration that replace the run's values.

    Returns:
        {output: its accuracies and calibration error in percent, parameters, FLOPs and images per second}. The
        teacher is included if its weights are available.

    Raises:
        UserError: the path is not a run, the images have other classes, or data is missing.
    """
    path, changes = located(path), {"eval_images": 0} | changes
    try:
        experiment = load(path, with_teacher=True, **changes)
    except InvalidSetting as error:
        if not isinstance(error, MissingFile) and not is_published(path):
            raise
        experiment = load(path, **changes)
        if "teacher_weights" in changes or _compares(experiment):
            raise
        experiment.task.more_labels = ()
    config, world = experiment.config, World(0, 1, 0, torch.device("cpu"))
    own = _own_config(experiment.family, Path(path))
    if own and {"dataset", "images"} & changes.keys():
        others = {name: changes[name] for name in vars(own.data).keys() & changes.keys() - {"dataset", "images"}}
        config = replace(config, data=replace(own.data.evaluated_on(config.data), **others))
    for teacher in filter(None, (experiment.teacher, *experiment.more_teachers)):
        teacher.precision = resolve_precision(config.run.precision, world.device)
    plan = BatchPlan(config.run.seed, 1)
    data = experiment.family.access.open_evaluation(config, plan, world, experiment.student.network)
    check_held_out(Path(path), own, config, data)
    subset = class_subset(path, data.class_names)
    if subset is None:
        check_classes(path, data.class_names)
    return {row.pop("output"): row for row in _measure(experiment, experiment.model, data, {}, subset, world)}


def _parse(family: Family, arguments: list[str], default: Config) -> EvaluateOptions:
    program = f"{family.command} evaluate"
    kind: Any = EvaluateOptions[type(default.data)]  # type: ignore[misc]
    options: EvaluateOptions = parse(kind, program, arguments, EvaluateOptions(default), EvaluateOptions.__doc__)
    config = options.config
    if getattr(config.method, "paper", False) and not getattr(default.method, "paper", False):
        # Only sampling can change: the checkpoint fixes the network and its training.
        config = replace(config, method=family.in_protocol(config.method, field_names(SamplingOptions)))
    return replace(options, config=config)


def _read(family: Family, arguments: list[str]) -> tuple[EvaluateOptions, Config, Tensors, int | None]:
    """Return the command, the configuration to evaluate, the tensors and their epoch.

    The flags default to the run's configuration, or to the values that follow from the tensors. In a dry run the file
    may be missing; then the tensors are empty.
    """
    path = Path(arguments[0]).expanduser()
    file = RunFolder(path).best if "--best" in arguments and path.is_dir() else weights_file(path)
    content: dict[str, Any] = {}
    tensors: Tensors = {}
    if file.exists() or "--dry-run" not in arguments:
        with naming("CHECKPOINT"):
            content = read(file)
            tensors = weights_in(content, str(path), reported_weights(content))
    own = _own_config(family, path)
    default = own or family.config(method_of(tensors))
    # The checkpoint replaces the initial weights.
    default = default.changed(student_weights=None, eval_images=0, eval_weights=reported_weights(content))
    options = _parse(family, arguments, default)
    if own and {word.partition("=")[0] for word in arguments} & {"--dataset", "--images"}:
        # A data set from the command line is evaluated whole, unless other flags choose images of it.
        data = own.data.evaluated_on(options.config.data)
        options = _parse(family, arguments, replace(default, data=data))
    if options.best and path.is_file():
        raise InvalidSetting("best", True, f"{path} is a file; name its run folder, or leave it out")
    settings = options.config if own else options.config.resolved()
    check_changes(own, settings)
    _check_networks(settings)
    weights = settings.optimizer.eval_weights
    return options, settings, weights_in(content, str(path), weights) if content else {}, content.get("epoch")


def _check_networks(settings: Config) -> None:
    """Raise UserError if the flags do not name the networks of a checkpoint file without a configuration."""
    if not settings.networks.student:
        raise UserError("--student is missing: the checkpoint file does not contain the name of its network; give it")
    if settings.method.needs_teacher and not settings.networks.teacher:
        raise UserError("--teacher is missing: the checkpoint holds a distilled student; name its teacher network")


def _open_data(
    family: Family, settings: Config, options: EvaluateOptions, built: Experiment, world: World
) -> tuple[EvaluationData, dict[str, Tensor]]:
    """Open the evaluation images, and return them with the groups of classes to report."""
    path, plan = Path(options.checkpoint), BatchPlan(settings.run.seed, 1, world.rank, world.size)
    data = family.access.open_evaluation(settings, plan, world, built.student.network)
    check_held_out(path, _own_config(family, path), settings, data)
    subset = class_subset(path, data.class_names)
    if subset is None:
        check_classes(path, data.class_names)
        teacher = built.teacher if _names_teacher(family, options) else None
        if teacher and teacher.loaded.file and teacher.classifier:
            check_classes(teacher.loaded.file, data.class_names, settings.networks.teacher_by)
    groups = _class_groups(family, settings, path) if subset is None else {}
    words = f", classes in groups: {', '.join(groups)}" if groups else ""
    if subset:
        words += f", predictions among {len(subset)} of the run's {len(learned_classes(path))} classes"
    if world.is_first:
        print(f"images      {_images(data, settings)} of {described(data)}{words}", flush=True)
    return data, groups


def _names_teacher(family: Family, options: EvaluateOptions) -> bool:
    """Return True if the command names other teacher weights than the run."""
    own = _own_config(family, Path(options.checkpoint))
    return options.config.networks.teacher_weights not in (None, own.networks.teacher_weights if own else None)


def _own_config(family: Family, path: Path) -> Config | None:
    """Return the configuration in a run folder or a checkpoint file; None for a file without one."""
    if path.is_dir():
        return RunFolder(path).config(family)
    record = embedded_record(path)
    return saved_config(record, family, path) if record else None


def _class_groups(family: Family, settings: Config, path: Path) -> dict[str, Tensor]:
    """Group the classes by their number of training images, from the run's data or from --train-list."""
    run, listed = RunFolder(path), getattr(settings.data, "train_list", None)
    own = (path / "data.json").exists() and listed == getattr(run.config(family).data, "train_list", None)
    sizes = run.data()["training images of each class"] if own else family.access.class_sizes(settings)
    return {} if sizes is None else class_groups(torch.as_tensor(sizes))


def _file(options: EvaluateOptions) -> Path:
    path = Path(options.checkpoint)
    return RunFolder(path).best if options.best and path.is_dir() else weights_file(path)


def _figures(options: EvaluateOptions, *differing: str) -> Path | None:
    """Return the file for the figures; None for a checkpoint file without --json."""
    path = Path(options.checkpoint)
    return figures_file(options.json, path, "evaluation", *differing) if options.json or path.is_dir() else None


def _differing(family: Family, options: EvaluateOptions, data: EvaluationData) -> list[str]:
    path, images = Path(options.checkpoint), _images(data, options.config)
    if not path.is_dir():
        return []
    own, used = RunFolder(path).config(family), options.config
    weights = used.optimizer.eval_weights
    differs = {
        f"{images}-images": images < data.size,
        f"{used.data.image_size}-pixels": used.data.image_size != own.data.image_size,
        "other-crops": used.data.geometry != own.data.geometry,
        "best": options.best,
        weights: weights != own.optimizer.eval_weights,
        "other-sampling": used.method.sampling() != own.method.sampling(),
    }
    return [*other_data(own, used, data.dataset, data.split), *(name for name, is_other in differs.items() if is_other)]


def _build(
    family: Family,
    options: EvaluateOptions,
    num_classes: int,
    world: World,
    tensors: Tensors,
) -> tuple[Experiment, str]:
    """Build the networks and the task; return them with a description of the teacher, "" without one.

    If the file of a run's teacher no longer exists, the teacher is not evaluated. The student does not need it. The
    same applies to a published student whose teacher cannot be loaded here.
    """
    settings = options.config
    precision, path = resolve_precision(settings.run.precision, world.device), Path(options.checkpoint)
    own = _own_config(family, path)
    refuse_hub_code(path, "student", own.networks.student if own else None)
    try:
        if own and settings.networks.teacher == own.networks.teacher:
            for name in own.networks.teacher_names:
                refuse_hub_code(path, "teacher", name)
        built = build(family, settings, num_classes, world.device, tensors, precision)
    except InvalidSetting as absent:
        expected = isinstance(absent, MissingFile) or is_published(path)
        if not expected or _names_teacher(family, options):
            raise
        without = settings.changed(**without_teacher(path, settings, tensors))
        built = build(family, without, num_classes, world.device, tensors, precision)
        if _compares(built):
            raise
        # Nothing is compared with the features of a teacher that is not loaded.
        built.task.more_labels = ()
        return built, with_flags(f"{settings.networks.teacher}: not evaluated, {absent}")
    loaded = built.teacher and built.teacher.loaded
    return built, f"{loaded.describe()}; {loaded.describe_weights()}" if loaded else ""


def _compares(built: Experiment) -> bool:
    """Return whether the student's outputs are compared with the teacher's features."""
    return built.task.outputs(built.task.model()).target is not None


def _outputs(built: Experiment, model: nn.Module, world: World) -> list[tuple[Outputs, int]]:
    """Return each output of the student by itself, with its parameter count.

    The teacher comes first, if it classifies and all processes have its weights.
    """
    outputs = [*built.task.outputs_apart(model), *built.task.further_outputs(model)]
    teacher = built.teacher
    trained = bool(teacher and teacher.loaded.trained)
    if world.all_true(torch.tensor(trained, device=world.device)) and teacher and teacher.classifier:
        outputs.insert(0, (teacher_output(teacher), parameter_count(teacher.model)))
    return outputs


def _measure(
    built: Experiment,
    model: nn.Module,
    data: EvaluationData,
    groups: dict[str, Tensor],
    subset: list[int] | None,
    world: World,
) -> list[dict]:
    built.task.eval()
    settings = built.config
    precision = resolve_precision(settings.run.precision, world.device)
    rows = []
    for outputs, parameters in _outputs(built, model, world):
        if subset:
            outputs = outputs.among(subset)
        (name,), batches = outputs.names, data.batches(settings.run.eval_images)
        with autocast(precision, world.device):
            measured = evaluate_with_cost(
                outputs, parameters, batches, data.image_size, world, settings.run.seed, groups, calibrated=True
            )
        rows.append({"output": name, **measured})
    return rows


def _images(data: EvaluationData, settings: Config) -> int:
    return min(settings.run.eval_images or data.size, data.size)


def _content(
    rows: list[dict], data: EvaluationData, options: EvaluateOptions, file: Path, epoch: int | None, world: World
) -> dict:
    settings = options.config
    return {
        "checkpoint": {
            "file": str(file),
            "sha256": checksum(file),
            "weights": settings.optimizer.eval_weights,
            "epoch": epoch,
        },
        "dataset": data.dataset,
        "split": data.split,
        "images": _images(data, settings),
        "sampling": settings.method.sampling(),
        "seed": settings.run.seed,
        "precision": resolve_precision(settings.run.precision, world.device),
        **environment(world),
        "outputs": rows,
    }
