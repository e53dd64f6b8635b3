"""The sampling program of both families: measure one trained head with many sampling settings.

The backbone's features are computed once; only the head is sampled again per setting.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro
from torch import Tensor

from gendd.core.distributed import World, autocast, first_alone, resolve_precision
from gendd.core.errors import UserError
from gendd.core.ranges import CountOrNone, check_values
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batches
from gendd.diffusion.objective import LATEST_FOR_NOISE
from gendd.distillation.student import Student
from gendd.evaluation.accuracy import Outputs, Stopwatch, evaluate
from gendd.family import Family
from gendd.methods.gendd import GenDD
from gendd.methods.options import NOISE_OUTPUT, SamplingOptions
from gendd.networks.cost import flops
from gendd.networks.features import pooled_feature
from gendd.programs.command_line import RunArgument, parse
from gendd.reporting.ablation import TOP1, Ablation, prepare
from gendd.runs.environment import environment
from gendd.runs.experiment import load
from gendd.runs.folder import check_classes

GUIDANCES, GUIDED_STEPS = (0.0, 1.0, 1.5, 2.0, 2.5, 3.0), (1, 2, 4)
STARTS, NOISE_STARTS, FEW_STEPS = (999, 900, 800), (950, 800, 600), (1, 2, 4, 8)
MANY_STEPS, SAMPLES = (10, 30, 100), (1, 5)
VALUES = {"guidance": "guidance", "sampling": "steps"}
COST = "ms per image"
NOTE = """\
Top-1 of the head's output, on as many images as the column `images` states. Time and FLOPs (a multiply-add counts two)
include backbone, sampling and classifier. Time is the median over batches of the backbone plus the median of the rest;
least and greatest vary only the rest. On one CPU thread it is CPU time."""


@dataclass(frozen=True)
class SamplingProgram:
    """Measure how the accuracy of a GenDD run's head depends on its sampling: a table and curves."""

    what: tyro.conf.Positional[Literal["guidance", "sampling"]]
    """Settings to vary: guidance, or sampling (sampler, steps, samples and start)."""
    run: RunArgument
    """Run folder."""
    output: str | None = None
    """Folder for the table, the CSV file and the picture. The run folder if not given."""
    data_root: str | None = None
    """Folder of data sets. The run's value if not given."""
    images: CountOrNone = 0
    """Number of test images; 0 is all."""
    noisy_images: CountOrNone = 1000
    """Number of test images for samplers that start from noise, which take about 100 times as long; 0 is all."""
    precision: Literal["auto", "bf16", "fp32"] | None = None
    """bf16 (autocast) or fp32. auto is bf16 where it is faster. The run's value if not given."""
    seed: CountOrNone | None = None
    """Seed of the sampling noise. The run's seed if not given."""


def ablate_sampling(family: Family, arguments: list[str] | None = None) -> None:
    """Run the sampling program of a family.

    Raises:
        UserError: the path is not a run folder, the run does not have a generative head, or data is missing.
    """
    config = parse(SamplingProgram, f"{family.command} sampling", arguments)
    check_values(config)
    world = first_alone()
    if not world:
        return
    folder = Path(config.output or config.run)
    changed: dict[str, Any] = {"data_root": config.data_root} if config.data_root else {}
    run = load(config.run, family, world.device, **changed)
    settings, task = run.config, run.task
    if task.head is None or not task.head.draws_features:
        raise UserError(
            f"run {config.run}: {settings.method.name} does not train a generative head; name a run of gendd"
        )
    if run.model.classifier is None:
        raise UserError(f"run {config.run}: top-1 needs a teacher that classifies the data; name another run")
    prepare(folder)
    data = family.access.open_evaluation(settings, BatchPlan(settings.run.seed, 1), world, run.student.network)
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
    """Return the sampling settings to measure for a run with these options.

    Raises:
        UserError: guidance of a run that was trained without condition dropout.
    """
    if what == "guidance":
        if not trained.condition_dropout:
            raise UserError("guidance: the run was trained with --condition-dropout 0; name a run with dropout")
        # A run with the ancestral sampler may have a start at which noise prediction is ill-conditioned.
        unfit = trained.prediction == "noise" and trained.sampling_start > LATEST_FOR_NOISE
        start = NOISE_OUTPUT["sampling_start"] if unfit else trained.sampling_start
        return [
            SamplingOptions(sampling_steps=steps, guidance=scale, sampling_start=start)
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
    """A student's head with precomputed features of some images; `probe_top1` is measured on the same images."""

    def __init__(self, student: Student, batches: Batches, world: World, seed: CountOrNone, image: Tensor):
        self.student, self.world, self.seed, self.image = student, world, seed, image
        self.features: list[tuple[int, Tensor, Tensor]] = []
        latest = None

        def probe(images: Tensor, _: torch.Generator) -> dict[str, Tensor]:
            nonlocal latest
            latest = pooled_feature(student.backbone, images)
            return {"probe": student.backbone.get_classifier()(latest)}

        def recorded():
            for number, images, labels in batches:
                yield number, images, labels
                # `evaluate` has run `probe` on this batch when it requests the next one.
                self.features.append((number, latest, labels))

        self.backbone = Stopwatch(Outputs(("probe",), probe))
        self.probe_top1 = evaluate(self.backbone, recorded(), world)["probe"]["top1"]

    def measure(self, sampling: SamplingOptions, noisy_images: CountOrNone) -> dict:
        """Measure one setting; return its row of the table."""
        sampling.check_sampling()
        student, settings = self.student, sampling.sampling()
        classifier: Any = student.classifier
        deterministic = sampling.sampler == "deterministic"

        def head(features: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
            return {"head": classifier(student.generate(features, noise, **settings))}

        stopwatch = Stopwatch(Outputs(("head",), head))
        batches = self.features if deterministic else _first(self.features, noisy_images)
        top1 = evaluate(stopwatch, batches, self.world, self.seed)["head"]["top1"]
        backbone, rest = self.backbone.summary(), stopwatch.summary()
        least, median, most = (1000 / backbone["median"] + 1000 / rest[name] for name in ("max", "median", "min"))
        noise = torch.Generator(self.image.device)
        operations = flops(lambda: head(pooled_feature(student.backbone, self.image), noise))
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
    """Return the first batches that hold about this number of images, at least one batch; all of them for 0."""
    return batches[: max(1, images // len(batches[0][2]))] if images else batches


def curve_name(what: str, sampling: SamplingOptions) -> str:
    """Return the name of the curve of a setting: the values that all settings on the curve share."""
    if what == "guidance":
        return f"steps {sampling.sampling_steps}"
    if sampling.sampler == "deterministic":
        return f"from zero at {sampling.sampling_start}"
    return f"{sampling.sampler}, samples {sampling.num_samples}"
