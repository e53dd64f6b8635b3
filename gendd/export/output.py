"""One output of a trained run as a module that torch.export can trace."""

import copy
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting, InvalidValue
from gendd.networks.cost import parameter_count
from gendd.networks.features import pooled_feature
from gendd.runs.experiment import Experiment

OutputName = Literal["head", "probe", "features", "backbone"]
# Parts of a student without classes that one of its outputs does not need.
UNNEEDED = {"head": ("linear",), "linear": ("norm", "head")}


class Output(nn.Module):
    """One output of a run, without random numbers.

    Args:
        name: "head", logits of the generated features, or these features for a student without classes. "probe", the
            output of the plain student: logits, or features by its linear map. "features", its pooled features.
            "backbone", its feature map or tokens before pooling. The head's if not given and there is one, else the
            probe's.

    Attributes:
        is_logits: False for features.
        image_size: S.

    Raises:
        InvalidValue: the run does not have this output.
        InvalidSetting: the head's sampler draws random numbers.
    """

    def __init__(self, run: Experiment, name: OutputName | None = None):
        super().__init__()
        outputs = {output.names[0]: output for output, _ in run.task.outputs_apart(run.model)}
        sizes = {output.names[0]: parameters for output, parameters in run.task.outputs_apart(run.model)}
        self.name: OutputName = name or ("head" if "head" in outputs else "probe")
        self.model, self.is_logits, self.image_size = run.backbone, False, run.config.data.image_size
        self.function: Callable[[Tensor], Tensor]
        if self.name == "features":
            self.function = lambda images: pooled_feature(run.backbone, images)
        elif self.name == "backbone":
            self.function = run.backbone.forward_features
        elif self.name == "probe" or self.name in outputs:
            plain = next(key for key in outputs if key != "head")
            key = "head" if self.name == "head" else plain
            if sizes[key] != parameter_count(run.backbone):  # The backbone alone gives the probe, and KD's output.
                self.model = _without_unused(run, key)
            self.is_logits = outputs[key].target is None
            self.function = lambda images: outputs[key].compute(images, torch.Generator())[key]
        else:
            known = [output for output in get_args(OutputName) if output != "head"]
            raise InvalidValue(self.name, f"this student does not have this output; choose {', '.join(known)}")
        if self.name == "head":
            _check_sampling(run)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (B, ...), float32, for preprocessed images (B, 3, S, S)."""
        return self.function(images).float()

    def traced(self) -> torch.export.ExportedProgram:
        """Return the graph of the output, for any number of images. It shares the weights."""
        # Channels last, torch's pooling becomes operations that other runtimes do not know well.
        self.to(memory_format=torch.contiguous_format)
        images = torch.zeros(2, 3, self.image_size, self.image_size)
        return torch.export.export(self, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _without_unused(run: Experiment, output: str) -> nn.Module:
    """Return the run's model, which shares its parts, without the parts that an output does not need.

    No output needs the dense head and further heads.
    """
    model, others = copy.copy(run.model), [getattr(run.model, name, None) for name in UNNEEDED.get(output, ())]
    unused = [part for part in (run.task.dense, run.task.branches, *others) if part is not None]
    model._modules = {name: part for name, part in model._modules.items() if not any(part is one for one in unused)}
    return model


def _check_sampling(run: Experiment) -> None:
    """Raise InvalidSetting if the head needs random numbers, or its sampling settings do not work together."""
    method: Any = run.config.method
    sampling = method.sampling()
    if run.task.head.draws_features and sampling["sampler"] != "deterministic":
        raise InvalidSetting(
            "sampler",
            sampling["sampler"],
            "draws random numbers, which an exported graph cannot; give `sampler` deterministic with few "
            "`sampling_steps`, such as 4",
        )
    method.check_sampling()
