"""ONNX files: writing, quantizing to int8, and running them."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gendd.core.extras import imported_extra

INPUT = "images"
# Layers to quantize. With residual sums and ReLU, a convolutional network stays in int8 between its layers.
QUANTIZED = ["Conv", "MatMul", "Gemm", "Add", "Relu"]


def library(module: str, to: str = "onnx") -> ModuleType:
    """Import a module of the packages for ONNX.

    Raises:
        InvalidValue: it is not installed.
    """
    return imported_extra(module, "export", to)


def convert(program: torch.export.ExportedProgram, result: str) -> Any:
    """Return an exported program as an ONNX model (onnx.ModelProto).

    Args:
        result: name of the model's output.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch uses its own deprecated functions.
        converted = torch.onnx.export(program, input_names=[INPUT], output_names=[result], verbose=False)
    return converted.model_proto


class _Reader:
    """The interface of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, batches: Iterator[Tensor]):
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input of the model, or None after the last."""
        images = next(self.batches, None)
        return None if images is None else {INPUT: images.contiguous().numpy()}


def quantized(model: Any, batches: Iterator[Tensor]) -> Any:
    """Return an ONNX model with int8 weights and activations; their ranges are those on the batches of images."""
    onnx, quantization = library("onnx"), library("onnxruntime.quantization")
    shapes = library("onnxruntime.quantization.shape_inference")

    with TemporaryDirectory() as folder:
        plain, prepared, result = (Path(folder, f"{name}.onnx") for name in ("plain", "prepared", "int8"))
        onnx.save(model, plain)
        shapes.quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared, result, _Reader(batches), op_types_to_quantize=QUANTIZED, per_channel=True
        )
        return onnx.load(result)


def serialized(model: Any, metadata: Mapping[str, str]) -> bytes:
    """Return the content of a file with an ONNX model and its metadata."""
    library("onnx").helper.set_model_props(model, dict(metadata))
    return model.SerializeToString()


def opened(file: Path) -> Callable[[Tensor], Tensor]:
    """Return the function of images that a file holds, in ONNX Runtime with as many CPU threads as torch uses."""
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.contiguous().numpy()})[0])
