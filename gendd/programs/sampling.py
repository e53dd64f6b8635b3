"""The sampling program of both families: what guidance, or sampler, steps, samples and start, make of one trained head.

Backbone and conditions are computed once; only the head is sampled again for every setting.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro
from torch import Tensor

from gendd.core.distributed import World, autocast, first_alone, resolve_precision
from gendd.core.errors import UserError
from gendd.core.ranges import CountOrNone, check_ranges
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batches
from gendd.distill.student import Student
from gendd.evaluation.accuracy import ReadOut, Stopwatch, evaluate
from gendd.family import Family
from gendd.methods.gendd import GenDD
from gendd.methods.options import SamplingOptions
from gendd.networks.cost import flops
from gendd.networks.create import pooled_feature
from gendd.programs.command_line import RunArgument, parse
from gendd.reporting.ablation import TOP1, Ablation, prepare
from gendd.runs.experiment import load
from gendd.runs.folder import check_classes, environment

GUIDANCES, GUIDED_STEPS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0), (1, 2, 4)
STARTS, NOISE_STARTS, FEW_STEPS = (999, 900, 800), (950, 800, 600), (1, 2, 4, 8)
MANY_STEPS, SAMPLES = (10, 30, 100), (1, 5)
VALUES = {"guidance": "guidance", "sampling": "steps"}
COST = "ms per image"
NOTE = """\
Top-1 of the head's read-out, on the images that the row counts. Time and FLOPs (a multiply-add counts two) are of the
whole read-out: backbone, sampling and classifier. Time is the sum of the median times of the backbone and of the rest,
over batches, with the least and greatest of the rest; on one CPU thread it is that thread's own time."""


@dataclass(frozen=True)
class SamplingProgram:
    """How the head's read-out of a GenDD run depends on the way it is sampled: a table and curves."""

    what: tyro.conf.Positional[Literal["guidance", "sampling"]]
    """guidance; or sampling: sampler, steps, samples and start."""
    run: RunArgument
    """Run folder."""
    output: str | None = None
    """Folder of the table, the CSV file and the picture; the run's own folder if not given."""
    data_root: str | None = None
    """Folder of data sets; the run's own if not given."""
    images: CountOrNone = 0
    """Measure on the first so many test images; 0 takes all."""
    noisy_images: CountOrNone = 1000
    """The same for the samplers that start from noise, which take a hundred times as long."""
    precision: Literal["auto", "bf16", "fp32"] | None = None
    """bf16 autocast, or fp32; auto: bf16 where the hardware multiplies in it; the run's own if not given."""
    seed: CountOrNone | None = None
    """Seed of the sampling noise; the run's own if not given."""


def ablate_sampling(family: Family, arguments: list[str] | None = None) -> None:
    """The sampling program of a family.

    Raises:
        UserError: no run folder, a run without a generative head, or data that is missing.
    """
    config = parse(SamplingProgram, f"{family.module} sampling", arguments)
    check_ranges(config)
    world = first_alone()
    if not world:
        return
    folder = Path(config.output or config.run)
    changed: dict[str, Any] = {"data_root": config.data_root} if config.data_root else {}
    run = load(config.run, family, world.device, **changed)
    settings, task = run.config, run.task
    if task.head is None or not task.head.draws_features:
        raise UserError(f"run {config.run}: {settings.method.name} trains no generative head; name a run of gendd")
    if run.model.classifier is None:
        raise UserError(f"run {config.run}: its teacher classifies nothing, so that its head has no top-1")
    prepare(folder)
    data = family.open_evaluation(settings, BatchPlan(settings.run.seed, 1), world, run.student.network)
    check_classes(Path(config.run), data.class_names)
    precision = resolve_precision(config.precision or settings.run.precision, world.device)
    seed = settings.run.seed if config.seed is None else config.seed
    image = torch.zeros(1, 3, data.image_size, data.image_size, device=world.device)
    with autocast(precision, world.device):
        head = _Head(run.model, data.batches(config.images), world, seed, image)
        rows = [
            {"curve": curve_name(config.what, sampling), **head.measure(sampling, config.noisy_images)}
            for sampling in grid(config.what, cast(GenDD, settings.method))
        ]
    found, method = environment(world), cast(GenDD, settings.method)
    labels = "no labels" if settings.data.unlabeled else f"contraction {method.contraction:g}"
    pair = f"{settings.networks.teacher} > {settings.networks.student}"
    title = f"{config.what.capitalize()}: {pair}, {labels}, seed {settings.run.seed}"
    note = f"{NOTE} {found['hardware']}, {precision}, PyTorch {found['versions']['torch']}."
    levels = {"linear probe": head.probe_top1}
    ablation = Ablation(title, note, "curve", VALUES[config.what], COST, rows, levels)
    ablation.write(folder, config.what)


def grid(what: str, trained: GenDD) -> list[SamplingOptions]:
    """The settings to measure a run of these options with.

    Raises:
        UserError: guidance, of a run without dropped conditions.
    """
    if what == "guidance":
        if not trained.condition_dropout:
            raise UserError("guidance: the run was trained with --condition-dropout 0, which guidance needs")
        return [
            SamplingOptions(sampling_steps=steps, guidance=scale, sampling_start=trained.sampling_start)
            for steps in GUIDED_STEPS
            for scale in GUIDANCES
        ]
    guidance, starts = trained.guidance, NOISE_STARTS if trained.prediction == "noise" else STARTS
    few = [
        SamplingOptions(sampling_steps=steps, guidance=guidance, sampling_start=start)
        for start in starts
        for steps in FEW_STEPS
    ]
    if trained.noise_path == "straight":
        return few
    many = [(steps, samples) for samples in SAMPLES for steps in MANY_STEPS]
    return [*few, *(SamplingOptions("ancestral", steps, samples, guidance) for steps, samples in many)]


class _Head:
    """A student's head on the conditions of some images, computed once; `probe_top1` is of the same images."""

    def __init__(self, student: Student, batches: Batches, world: World, seed: CountOrNone, image: Tensor):
        self.student, self.world, self.seed, self.image = student, world, seed, image
        self.conditions: list[tuple[int, Tensor, Tensor]] = []
        latest = None

        def probe(images: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            nonlocal latest
            feature = pooled_feature(student.backbone, images)
            latest = student.norm(feature)
            return {"probe": student.backbone.get_classifier()(feature)}

        def recorded():
            for number, images, labels in batches:
                yield number, images, labels
                # The evaluation asks for the next batch once it is done with this one.
                self.conditions.append((number, latest, labels))

        self.backbone = Stopwatch(ReadOut(("probe",), probe))
        self.probe_top1 = evaluate(self.backbone, recorded(), world)["probe"]["top1"]

    def measure(self, sampling: SamplingOptions, noisy_images: CountOrNone) -> dict:
        """A row of the table."""
        sampling.check_sampling()
        student, settings = self.student, sampling.sampling()
        classifier: Any = student.classifier
        deterministic = sampling.sampler == "deterministic"

        def head(conditions: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
            return {"head": classifier(student.head.sample(conditions, generator=noise, **settings).mean(1))}

        stopwatch = Stopwatch(ReadOut(("head",), head))
        batches = self.conditions if deterministic else _first(self.conditions, noisy_images)
        top1 = evaluate(stopwatch, batches, self.world, self.seed)["head"]["top1"]
        backbone, rest = self.backbone.summary(), stopwatch.summary()
        least, median, most = (1000 / backbone["median"] + 1000 / rest[name] for name in ("max", "median", "min"))
        operations = flops(partial(student.sample, self.image, torch.Generator(self.image.device), **settings))
        return {
            "steps": sampling.sampling_steps,
            "guidance": sampling.guidance,
            TOP1: top1,
            "images": sum(len(labels) for _, _, labels in batches),
            COST: median,
            "least": least,
            "greatest": most,
            "batches": rest["batches"],
            "MFLOPs per image": operations / 1e6,
        }


def _first(batches: list[tuple[int, Tensor, Tensor]], images: int) -> list[tuple[int, Tensor, Tensor]]:
    """The first of some batches, with together about so many images, at least one."""
    return batches[: max(1, images // len(batches[0][2]))]


def curve_name(what: str, sampling: SamplingOptions) -> str:
    """What the settings on one curve share."""
    if what == "guidance":
        return f"steps {sampling.sampling_steps}"
    if sampling.sampler == "deterministic":
        return f"from zero at {sampling.sampling_start}"
    return f"{sampling.sampler}, samples {sampling.num_samples}"
