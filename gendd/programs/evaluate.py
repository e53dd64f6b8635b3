"""The evaluate program of both trees: accuracy, size and measured speed of the teacher and of every read-out."""

import dataclasses
from pathlib import Path

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from gendd.checkpoint import (
    Tensors,
    checksum,
    load_weights,
    read,
    reported_weights,
    weights_file,
    weights_in,
)
from gendd.config import EvaluateConfig, TrainConfig
from gendd.data import EvaluationData, described
from gendd.distributed import World, autocast, join_world, resolve_precision
from gendd.errors import Absent, UserError, naming, not_there
from gendd.evaluation import ReadOut, class_groups, evaluate_with_cost
from gendd.methods import METHODS, Method
from gendd.methods.options import SamplingOptions
from gendd.networks import parameter_count
from gendd.programs.build import Built, build, list_missing, noting, teacher_read_out
from gendd.programs.figures import figures_file, other_data, write_figures
from gendd.programs.tree import Tree
from gendd.randomness import BatchPlan
from gendd.ranges import field_names, flag
from gendd.runs import (
    SCORES,
    RunFolder,
    check_classes,
    class_subset,
    environment,
    learned_classes,
    progress,
    saved_config,
)
from gendd.scores import PERCENT, score_title

RATES = ("median", "min", "max")


def evaluate_checkpoint(tree: Tree, arguments: list[str] | None = None) -> None:
    """The evaluate program of a tree.

    Raises:
        UserError: whatever in the command, the data or the checkpoint cannot work.
    """
    config = tree.parse_evaluate(arguments)
    config.check()
    with join_world() as world:
        file = _file(config)
        if world.is_first:
            _figures(config)
        settings, tensors, epoch = _read(tree, config, file)
        if isinstance(settings.method, SamplingOptions):
            settings.method.check_sampling()
        summary = tree.summarize(settings)
        if summary.num_classes is None:
            raise UserError("; ".join(summary.missing))
        missing = list(summary.missing)
        # Images may be of some of the classes alone.
        classes = max(summary.num_classes, len(learned_classes(Path(config.checkpoint))))
        built, teacher = _build(tree, config, settings, classes, world, missing, tensors)
        model = unwrap_model(built.task.get_eval_model())
        if tensors:
            with naming("checkpoint"):
                loaded = load_weights(model, tensors, config.checkpoint)
        else:
            missing, loaded = [*missing, f"checkpoint {not_there(config.checkpoint)}"], "nothing loaded"
        if world.is_first:
            reached = progress(Path(config.checkpoint), epoch)
            print(f"checkpoint  {config.checkpoint}: {loaded}, {settings.weights} weights{reached}")
            print(f"student     {built.student.describe()}", flush=True)
            if built.teacher:
                print(f"teacher     {built.teacher.describe()}; {teacher}", flush=True)
            if built.task.head is not None and built.task.head.draws_features:
                of_run = Path(config.checkpoint).is_dir()
                print(f"protocol    {tree.protocol(settings.method, of_run)}", flush=True)
        if config.dry_run:
            if not summary.missing:
                with noting(missing):
                    _open_data(tree, settings, config, built, world)
            if world.is_first:
                print(list_missing(missing))
            return
        data, groups = _open_data(tree, settings, config, built, world)
        figures = _figures(config, *_other_data(tree, config, settings, data)) if world.is_first else None
        rows = _measure(built, model, data, groups, settings, config, world)
        if world.is_first:
            _print(rows, list(groups), _images(data, config), settings, world)
        if figures:
            print()
            write_figures(figures, _content(rows, data, settings, config, epoch, world))


def _open_data(
    tree: Tree, settings: TrainConfig, config: EvaluateConfig, built: Built, world: World
) -> tuple[EvaluationData, dict[str, Tensor]]:
    """The images to evaluate on, and the groups of classes to be reported apart."""
    batches = BatchPlan(settings.seed, 1, world.rank, world.size)
    data = tree.open_evaluation(settings, batches, world, built.student.network)
    subset = class_subset(Path(config.checkpoint), data.class_names)
    if subset is None:
        check_classes(Path(config.checkpoint), data.class_names)
        taught = built.teacher if config.teacher_weights else None
        if taught and taught.file and built.task.teacher.classifier:
            check_classes(taught.file, data.class_names, settings.teacher_flag)
    groups = _class_groups(tree, settings, config) if subset is None else {}
    images = f"{_images(data, config)} of {described(data)}"
    told = f", classes in groups: {', '.join(groups)}" if groups else ""
    told += f", of {len(subset)} of the classes, among which it chooses" if subset else ""
    if world.is_first:
        print(f"images      {images}{told}", flush=True)
    return data, groups


def _class_groups(tree: Tree, settings: TrainConfig, config: EvaluateConfig) -> dict[str, Tensor]:
    """By the numbers of training images of each class that a run notes; of other checkpoints, and with a list of
    training images, by those that are there."""
    path, listed = Path(config.checkpoint), getattr(config, "train_list", None)
    if listed or not (path / "data.json").exists():
        sizes = tree.class_sizes(settings)
    else:
        sizes = RunFolder(path).read("data.json").get("training images of each class")
    return {} if sizes is None else class_groups(torch.as_tensor(sizes))


def _file(config: EvaluateConfig) -> Path:
    if not config.checkpoint:
        raise UserError("checkpoint is missing: name a run folder or a checkpoint file")
    path = Path(config.checkpoint)
    return RunFolder(path).best if config.best and path.is_dir() else weights_file(path)


def _figures(config: EvaluateConfig, *differing: str) -> Path | None:
    """Return the file for the figures; of a checkpoint file there is none unless it is given."""
    path = Path(config.checkpoint)
    return figures_file(config.json, path, "evaluation", *differing) if config.json or path.is_dir() else None


def _other_data(tree: Tree, config: EvaluateConfig, settings: TrainConfig, data: EvaluationData) -> list[str]:
    path = Path(config.checkpoint)
    return (
        other_data(saved_config(path, tree.train_config), settings, data.dataset, data.split) if path.is_dir() else []
    )


def _read(tree: Tree, config: EvaluateConfig, file: Path) -> tuple[TrainConfig, Tensors, int | None]:
    """The training configuration of what is evaluated, its tensors and epoch; none in a dry run without the file."""
    if config.dry_run and not file.exists():
        return _settings(tree, config, {}), {}, None
    with naming("checkpoint"):
        content = read(file)
        weights = config.weights or reported_weights(content)
        tensors = weights_in(content, config.checkpoint, weights)
    return dataclasses.replace(_settings(tree, config, tensors), weights=weights), tensors, content.get("epoch")


def _settings(tree: Tree, config: EvaluateConfig, tensors: Tensors) -> TrainConfig:
    """The training configuration of what is evaluated: a run's own, or as its tensors tell."""
    path = Path(config.checkpoint)
    if path.is_dir():
        settings = saved_config(path, tree.train_config)
    else:
        if not config.student:
            raise UserError("--student is missing: a checkpoint file does not tell its network; name it")
        settings = tree.train_config(method=_method(tensors))
        if settings.method.needs_teacher and not config.teacher:
            raise UserError("--teacher is missing: the checkpoint holds a distilled student; name its teacher network")
    # The weights are the checkpoint's own; what the run once started from is not read again. A part of the teacher's
    # that the run allowed is allowed again; None says that this program cannot be asked for more.
    allowed = settings.allow_partial or None
    own = {"student_weights": None, "after": None, "allow_partial": allowed}
    given = _given(config, settings)
    if config.dataset and learned_classes(path):
        settings = settings.judged_on(config.dataset)
    return tree.train_config.of(**settings.flat() | given | own)


def _given(config: EvaluateConfig, settings: TrainConfig) -> dict:
    """What the command gives in place of a run's own values."""
    known = settings.flat()
    given = {name: getattr(config, name) for name in field_names(type(config)) if getattr(config, name) is not None}
    for name in field_names(SamplingOptions):
        if name in given and name not in known:
            told = "--paper" if config.paper else f"{flag(name)} {given[name]}"
            raise UserError(f"{told}: {settings.method.name} trains no head to sample; leave it out")
    return {name: value for name, value in given.items() if name in known}


def _method(tensors: Tensors) -> Method:
    """The method of a checkpoint, and its options, read off its tensors."""
    with naming("checkpoint:"):
        for kind in METHODS.values():
            if method := kind.from_tensors(tensors):
                return method
    raise UserError("checkpoint: its tensors tell no method; name the run folder")


def _build(
    tree: Tree,
    config: EvaluateConfig,
    settings: TrainConfig,
    num_classes: int,
    world: World,
    missing: list[str],
    tensors: Tensors,
) -> tuple[Built, str]:
    """The networks and the task, and a word on the teacher's weights. A run's teacher whose file is gone is not
    evaluated: what the student needs of it lies among the student's own weights."""
    shape = (num_classes, world.device, missing if config.dry_run else None, tensors)
    precision = resolve_precision(settings.precision, world.device)
    try:
        built = build(tree, settings, *shape, precision)
    except Absent as absent:
        if config.teacher_weights or not settings.teacher_classifier:
            raise
        built = build(tree, dataclasses.replace(settings, teacher_weights=None), *shape, precision)
        return built, f"not evaluated, {absent}"
    return built, built.teacher.describe_weights() if built.teacher else ""


def _read_outs(built: Built, model: nn.Module, settings: TrainConfig, world: World) -> list[tuple[ReadOut, int]]:
    """The teacher, if all processes have its weights, and each read-out of the student alone, with its parameter
    count."""
    read_outs = built.task.read_outs_apart(model)
    loaded = bool(built.teacher and built.teacher.tensors)
    if world.all_true(torch.tensor(loaded, device=world.device)) and built.task.teacher.classifier:
        read_outs.insert(0, (teacher_read_out(built.task.teacher), parameter_count(built.teacher.network)))
    return read_outs


def _among(read_out: ReadOut, classes: list[int]) -> ReadOut:
    """The read-out, choosing among some of the classes alone."""
    outputs = lambda images, noise: {  # noqa: E731
        name: logits[:, classes] for name, logits in read_out.outputs(images, noise).items()
    }
    return dataclasses.replace(read_out, outputs=outputs)


def _measure(
    built: Built,
    model: nn.Module,
    data: EvaluationData,
    groups: dict[str, Tensor],
    settings: TrainConfig,
    config: EvaluateConfig,
    world: World,
) -> list[dict]:
    built.task.eval()
    precision = resolve_precision(settings.precision, world.device)
    rows = []
    subset = class_subset(Path(config.checkpoint), data.class_names)
    for read_out, parameters in _read_outs(built, model, settings, world):
        if subset:
            read_out = _among(read_out, subset)
        (name,), batches = read_out.names, data.batches(config.images)
        with autocast(precision, world.device):
            measured = evaluate_with_cost(
                read_out, parameters, batches, data.image_size, world, settings.seed, groups, calibrated=True
            )
        rows.append({"read_out": name, **measured})
    return rows


def _print(rows: list[dict], groups: list[str], images: int, settings: TrainConfig, world: World) -> None:
    if sampling := settings.method.sampling():
        told = ", ".join(f"{name} {value}" for name, value in sampling.items())
        print(f"sampling    {told}, seed {settings.seed}")
    print(f"hardware    {world.describe()}, {resolve_precision(settings.precision, world.device)}")
    ordered = (*SCORES, *groups, *PERCENT)
    names = [name for name in dict.fromkeys(ordered) if any(name in row for row in rows)]
    columns = ["read-out", *(f"{score_title(name, images)} %" for name in names), "parameters", "MFLOPs per image"]
    columns.append("images/s per process: median (min-max)")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        rate = row["images_per_second"]
        median, least, most = (f"{rate[name]:.3g}" if rate[name] < 100 else f"{rate[name]:.0f}" for name in RATES)
        speed = f"{median} ({least}-{most}, {rate['batches']} batches)"
        accuracies = [f"{row[name]:.2f}" if name in row else "none seen" for name in names]
        size = [f"{row['parameters'] / 1e6:.2f} M", f"{row['flops'] / 1e6:.1f}"]
        print(f"| {' | '.join([row['read_out'], *accuracies, *size, speed])} |", flush=True)


def _images(data: EvaluationData, config: EvaluateConfig) -> int:
    return min(config.images or data.size, data.size)


def _content(
    rows: list[dict],
    data: EvaluationData,
    settings: TrainConfig,
    config: EvaluateConfig,
    epoch: int | None,
    world: World,
) -> dict:
    return {
        "checkpoint": {
            "file": str(_file(config)),
            "sha256": checksum(_file(config)),
            "weights": settings.weights,
            "epoch": epoch,
        },
        "dataset": data.dataset,
        "split": data.split,
        "images": _images(data, config),
        "sampling": settings.method.sampling(),
        "seed": settings.seed,
        "precision": resolve_precision(settings.precision, world.device),
        **environment(world),
        "read_outs": rows,
    }
