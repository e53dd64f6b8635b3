"""Export of a run's student to a file, which is compared with the original before it gets its name."""

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor

from gendd.core.distributed import World
from gendd.core.errors import InvalidSetting, UserError, naming, unknown_name
from gendd.core.files import check_writable, rewrite_text
from gendd.core.own_code import brief
from gendd.core.seeding import BatchPlan
from gendd.data.batch import EvaluationData
from gendd.evaluation.accuracy import Outputs, evaluate
from gendd.export import onnx_file
from gendd.export.check import Agreement, Function, results, speeds
from gendd.export.metadata import describe
from gendd.export.output import Output, OutputName
from gendd.export.table import table
from gendd.own.access import Given, registered
from gendd.runs.environment import environment
from gendd.runs.experiment import Experiment

Format = Literal["onnx", "torch-export", "int8"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "int8": ".int8.onnx"}
IMAGES = 256
# Images per call in calibration.
CALIBRATION_BATCH = 16
CPU = World(0, 1, 0, torch.device("cpu"))


def export_student(
    run: Experiment,
    to: Format = "onnx",
    output: OutputName | None = None,
    folder: str | Path | None = None,
    num_images: int = IMAGES,
    calibration_images: int = IMAGES,
    batches: Iterable[Any] | None = None,
) -> tuple[Path, str]:
    """Write <output>.onnx, .pt2 or .int8.onnx, and its comparison with the original (.md and .json).

    Args:
        run: a loaded run, on the CPU.
        output: see `Output`.
        folder: export/ in the run folder if not given.
        num_images: number of evaluation images to compare on.
        calibration_images: number of training images for the ranges of int8 activations.
        batches: for a run on given batches: batches to compare on, and to use in place of training images.

    Returns:
        The file, and the comparison as a Markdown table.

    Raises:
        UserError: the output, the images or a package is missing, or the file's results differ from the original's.
    """
    with naming("to"):
        if to not in ENDINGS:
            raise unknown_name(to, ENDINGS)
        if to != "torch-export":
            for package in ("onnx", "onnxscript", "onnxruntime"):
                onnx_file.library(package, to)
    with naming("output"):
        original = Output(run, output)
    if folder is None and run.path is None:
        raise InvalidSetting("folder", None, "the run does not have a folder; name one")
    place = Path(folder or (run.path if run.path and run.path.is_dir() else Path()) / "export")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting("folder", place, f"{error.strerror}; name another folder") from error
    file = place / f"{original.name}{ENDINGS[to]}"
    check_writable(file, "name another place: `folder`")
    metadata = describe(run, original)
    given = None if batches is None else Given(batches, batches, run.class_names)
    with registered(given), TemporaryDirectory(dir=place) as temporary:
        data = _open(run)
        training = _open(run, of_training=True) if to == "int8" else data
        content = _content(to, original, metadata, lambda: _calibration(training, calibration_images))
        # As in training and evaluation; see `Output.traced`.
        original.to(memory_format=torch.channels_last)
        written = Path(temporary, file.name)
        written.write_bytes(content)
        exported = _opened(to, written)
        figures = _figures(original, exported, data, num_images, to, file)
        os.replace(written, file)
    figures["bytes"] = {"original": _bytes(original), file.name: len(content)}
    if to == "int8":
        figures["calibration_images"] = min(calibration_images, training.size)
    figures |= {name: json.loads(text) for name, text in metadata.items()} | environment(CPU)
    text = table(figures)
    rewrite_text(file.with_name(f"{file.name}.json"), json.dumps(figures, indent=2) + "\n")
    rewrite_text(file.with_name(f"{file.name}.md"), text)
    return file, text


def _open(run: Experiment, of_training: bool = False) -> EvaluationData:
    plan = BatchPlan(run.config.run.seed, 1)
    return run.family.access.open_evaluation(run.config, plan, CPU, run.backbone, of_training)


def _calibration(training: EvaluationData, count: int) -> Iterator[Tensor]:
    """Yield the first training images in batches."""
    for _, images, _ in training.batches(count):
        yield from images.split(CALIBRATION_BATCH)


def _content(to: Format, output: Output, metadata: Mapping[str, str], images: Callable[[], Iterator[Tensor]]) -> bytes:
    """Return the content of the exported file."""
    try:
        program = output.traced()
        if to == "torch-export":
            buffer = io.BytesIO()
            torch.export.save(program, buffer, extra_files=dict(metadata))
            return buffer.getvalue()
        model = onnx_file.convert(program, "logits" if output.is_logits else "features")
    except Exception as error:  # torch raises many kinds of errors for networks that it cannot convert.
        reason = f"torch cannot convert this output's network ({brief(error)}); choose another `output`"
        raise InvalidSetting("to", to, reason) from error
    return onnx_file.serialized(onnx_file.quantized(model, images()) if to == "int8" else model, metadata)


def _opened(to: Format, file: Path) -> Function:
    return torch.export.load(file).module() if to == "torch-export" else onnx_file.opened(file)


def _bytes(output: Output) -> int:
    return sum(value.nbytes for value in output.state_dict().values())


def _figures(
    original: Output, exported: Function, data: EvaluationData, num_images: int, to: Format, file: Path
) -> dict[str, Any]:
    """Compare both functions.

    Raises:
        UserError: their results differ too much, or images are missing.
    """
    batches = list(data.batches(num_images))
    if not batches:
        raise UserError(f"{data.dataset}: no images to compare the exported file on; name a run that has some")
    agreement = Agreement.of(results(original, batches), results(exported, batches), original.is_logits)
    agreement.check(file, exact=to != "int8")
    functions: dict[str, Function] = {"original": original, file.name: exported}
    figures = {"agreement": asdict(agreement), "speed": speeds(functions, batches[0][1])}
    if to == "int8" and original.is_logits and data.class_names:
        outputs = Outputs(tuple(functions), lambda images, _: {name: f(images) for name, f in functions.items()})
        scores = evaluate(outputs, data.batches(), CPU)
        top1 = {name: values["top1"] for name, values in scores.items()}
        figures["accuracy"] = {"images": data.size, **top1}
    return figures
