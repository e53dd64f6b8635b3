"""The export program: a run's student as an ONNX or torch.export file, compared with the original."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from gendd.core.distributed import first_alone
from gendd.core.errors import InvalidSetting
from gendd.core.ranges import Count, Number, Range, check_values
from gendd.diffusion.schedule import NUM_TIMESTEPS
from gendd.export.output import OutputName
from gendd.export.student import IMAGES, Format, export_student
from gendd.family import Family
from gendd.programs.command_line import RunArgument, parse
from gendd.runs.experiment import load
from gendd.runs.folder import run_record
from gendd.runs.published import located


@dataclass(frozen=True)
class ExportConfig:
    """Export a trained student to a file that runs without this project, and compare it with the original."""

    run: RunArgument
    """Run folder, a checkpoint file, or a published student (hf-hub:OWNER/NAME or its folder)."""
    to: Format = "onnx"
    """Format of the file: onnx; torch-export (.pt2); or int8, ONNX with int8 weights and activations."""
    output: OutputName | None = None
    """Output of the student. head: logits from the generated features, or these features without classes. probe: logits
    of the plain student, or features by its linear map. features: its pooled features. backbone: its feature map
    before pooling. head if not given and the student has one, else probe."""
    folder: str | None = None
    """Folder for the file and its comparison with the original. If not given, export/ in the run folder, or in the
    current folder for a file."""
    num_images: Count = IMAGES
    """Number of evaluation images to compare on."""
    calibration_images: Count = IMAGES
    """Number of training images that set the ranges of int8 activations."""
    sampler: Literal["deterministic"] | None = None
    """Sampler of the head, for a run that uses another one. Only a deterministic one can be exported."""
    sampling_steps: Count | None = None
    """Sampling steps. The run's value if not given."""
    sampling_start: Annotated[int, Range(2, NUM_TIMESTEPS - 1)] | None = None
    """First timestep of the sampler. The run's value if not given."""
    guidance: Number | None = None
    """Scale of classifier-free guidance. The run's value if not given."""
    data_root: str | None = None
    """Folder of data sets. The run's value if not given."""

    def changes(self) -> dict[str, Any]:
        """Return the values of the run's configuration to replace.

        Raises:
            InvalidSetting: a value of sampling for a run whose method does not sample.
        """
        names = ("sampler", "sampling_steps", "sampling_start", "guidance")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        method = run_record(located(self.run))["method"] if given else {}
        for name in given.keys() - method.keys():
            raise InvalidSetting(name, given[name], f"{method['name']} does not sample; leave it out")
        if self.sampler:
            given["num_samples"] = 1
        return given | ({"data_root": self.data_root} if self.data_root else {})


def export(family: Family, arguments: list[str]) -> None:
    """Run the export program of a family.

    Raises:
        UserError: the path is not a run, a package or images are missing, or the file differs from the original.
    """
    config = parse(ExportConfig, f"{family.command} export", arguments)
    check_values(config)
    if not first_alone():
        return
    run = load(config.run, family, grad_checkpointing="none", **config.changes())
    file, table = export_student(
        run, config.to, config.output, config.folder, config.num_images, config.calibration_images
    )
    print(f"\n{table}\nexported to {file.absolute()}; the table is also in {file.name}.md and {file.name}.json")
