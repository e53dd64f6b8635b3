"""The frozen teacher of all methods.

It converts images to its size and normalization, and computes its features or reads them from a cache.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.task import DistillationTeacher
from torch import Tensor, nn

from gendd.core.distributed import autocast
from gendd.core.errors import naming
from gendd.data.batch import Batch, to_device
from gendd.distillation.teacher_feature import Kind, places_of, select
from gendd.networks.create import LoadedNetwork
from gendd.networks.feature_map import features_and_map, map_of, on_grid
from gendd.networks.features import feature_width
from gendd.networks.meta import HALF, MappedFile

# Layers whose weights autocast casts at each call. Subclasses are excluded: they may use the weights before the cast.
CAST_BY_AUTOCAST = (nn.Linear, nn.Conv2d)


def _store(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Convert a module's own floating-point tensors to a type; None: only those in half precision, to float32."""
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        if (dtype and tensor.is_floating_point()) or tensor.dtype in HALF:
            tensor.data = tensor.data.to(dtype or torch.float32)


class Features(Protocol):
    def features(self, batch: Batch) -> Tensor:
        """Return `FrozenTeacher.outputs_of` a batch, in any precision, on any device."""


class FrozenTeacher(DistillationTeacher):
    """timm's teacher, on the device, channels last, with a separate precision.

    In bf16 the weights of linear and convolution layers are stored in bf16, as autocast would cast them at each call.
    The arithmetic is the same and the memory half. The classifier stays in float32, because its rows are GenDD's class
    centers.

    Args:
        network: changed in place.
        student: its normalization is the one of the input images.
        precision: "bf16" or "fp32", independent of the student's precision.
        chunk: largest number of images per forward pass; 0: the whole batch.
        kind: which feature to return (`gendd.distillation.teacher_feature`).
        width: D_t, needed for features other than the pooled one.
        image_size: side to which images are resized for the teacher; None: no resizing.
        has_classifier: whether the network's last layer classifies the data set's classes.
        grid: g, side of the map that the teacher also gives; 0 for no map.
        layer: stage or block whose map it gives, an index of timm's `forward_intermediates`; None: the last map.

    Attributes:
        width: D_t.
        map_side: side lengths of the map before it is pooled to the grid; () without a map.
        map_width: D_m, number of the map's channels; 0 without a map.
        cache: if set, `features` reads from it and does not run the network.
        loaded: the network and its descriptions for the plan.
        mapped: the file to which the network's parameters are mapped, if they are.
    """

    cache: Features | None = None
    loaded: LoadedNetwork
    mapped: MappedFile | None = None
    map_side: tuple[int, ...]

    def __init__(
        self,
        network: nn.Module,
        student: nn.Module,
        device: torch.device,
        precision: str = "fp32",
        chunk: int = 0,
        kind: Kind = "pooled",
        width: int | None = None,
        image_size: int | None = None,
        has_classifier: bool = True,
        grid: int = 0,
        layer: int | None = None,
    ):
        for module in network.modules():
            cast = precision == "bf16" and type(module) in CAST_BY_AUTOCAST and module is not network.get_classifier()
            _store(module, torch.bfloat16 if cast else None)
        network.to(device, memory_format=torch.channels_last).requires_grad_(False)
        super().__init__(network, device=device)
        self.precision, self.chunk, self.kind, self.image_size = precision, chunk, kind, image_size
        self.has_classifier, self.width = has_classifier, width or feature_width(network)
        self.grid, self.layer, self.map_side, self.map_width = grid, layer, (), 0
        if grid:
            side = image_size or network.pretrained_cfg["input_size"][-1]
            with torch.no_grad(), autocast(precision, device):
                _, feature_map = self._features_and_map(torch.zeros(1, 3, side, side, device=device))
            self.map_side, self.map_width = tuple(feature_map.shape[2:]), feature_map.shape[1]
        for name in ("mean", "std"):
            values = torch.tensor(student.pretrained_cfg[name], device=device).view(1, -1, 1, 1)
            self.register_buffer(f"student_{name}", values, persistent=False)
        self.images_fit = all(
            tuple(network.pretrained_cfg[name]) == tuple(student.pretrained_cfg[name]) for name in ("mean", "std")
        )

    @property
    def sizes(self) -> dict[str, Any]:
        """Return what a student needs to know of its teacher, to be built without it, for a record."""
        sizes = {"width": self.width, "classifies": self.has_classifier}
        return sizes | ({"map_width": self.map_width} if self.grid else {})

    def forward(self, input: Tensor, return_features: bool = False) -> Tensor:
        """Return logits (B, C) or features (B, D_t) of images in the teacher's normalization."""
        if self.mapped:
            with naming("teacher_weights"):
                self.mapped.check()
        forward = super().forward
        with autocast(self.precision, input.device):
            if not self.chunk:
                return forward(input, return_features)
            return torch.cat([forward(images, return_features) for images in input.split(self.chunk)])

    def _forward_features(self, input: Tensor) -> Tensor:
        """Return the selected kind of feature (B, D_t), followed by the map (B, L D_m) if there is one.

        It overrides timm's method.
        """
        if not self.grid:
            return select(self.model, self.model.forward_features(input), self.kind)
        features, feature_map = self._features_and_map(input)
        on = on_grid(feature_map.float(), self.grid).flatten(2).mT.flatten(1)
        return torch.cat([select(self.model, features, self.kind).float(), on], 1)

    def _features_and_map(self, input: Tensor) -> tuple[Any, Tensor]:
        """Return the output before pooling and the map (B, D_m, h, w) of one pass."""
        if self.layer is not None:
            with naming("dense_layer"):
                return features_and_map(self.model, input, [self.layer])
        features = self.model.forward_features(input)
        return features, map_of(self.model, places_of(features))

    @property
    def classifier(self) -> nn.Linear | None:
        """Return the classifier of the data set's classes, or None."""
        return self.model.get_classifier() if self.has_classifier else None

    def classify(self, features: Tensor) -> Tensor:
        """Return the classifier's logits (B, C) for features (B, D_t)."""
        return self.model.get_classifier()(features)

    @property
    def class_centers(self) -> Tensor:
        """Return the classifier's weight (C, D_t), whose rows are the class centers."""
        return self.model.get_classifier().weight

    def features(self, batch: Batch) -> Tensor:
        """Return the features (B, D_t), float32, of a batch of training images."""
        return self._outputs(batch)[:, : self.width]

    def features_and_map(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the features (B, D_t) and the map on the grid (B, L, D_m), float32; None without a map."""
        outputs = self._outputs(batch)
        feature_map = outputs[:, self.width :].unflatten(1, (-1, self.map_width)) if self.grid else None
        return outputs[:, : self.width], feature_map

    def _outputs(self, batch: Batch) -> Tensor:
        if self.cache is None:
            return self.outputs_of(batch.images)
        return to_device(self.cache.features(batch), batch.images.device).float()

    def features_of(self, images: Tensor) -> Tensor:
        """Return the features (B, D_t), float32, of images in the student's normalization."""
        return self.outputs_of(images)[:, : self.width]

    def features_to_compare(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the features (B, D_t), float32, of evaluation images; `labels` may hold them already."""
        return labels if labels.is_floating_point() else self.features_of(images)

    @property
    def output_width(self) -> int:
        """Width of `outputs_of`, which a cache stores: D_t + L D_m."""
        return self.width + self.grid**2 * self.map_width

    @torch.no_grad()
    def outputs_of(self, images: Tensor) -> Tensor:
        """Return the features, followed by the map, (B, D_t + L D_m), of images in the student's normalization."""
        return self(self._normalized(images), return_features=True).float()

    @torch.no_grad()
    def whole_map(self, images: Tensor) -> Tensor:
        """Return the map (B, D_m, h, w), float32, of images in the student's normalization, before it is pooled.

        Raises:
            InvalidValue: the network does not give a map.
        """
        with autocast(self.precision, images.device):
            return self._features_and_map(self._normalized(images))[1].float()

    @torch.no_grad()
    def logits_of(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of images in the student's normalization."""
        return self(self._normalized(images))

    def _normalized(self, images: Tensor) -> Tensor:
        """Convert images from the student's normalization and size to the teacher's."""
        images = self.normalize_input(images, self.student_mean, self.student_std)
        if self.image_size in (None, images.shape[-1]):
            return images
        size = (self.image_size, self.image_size)
        return F.interpolate(images, size, mode="bicubic", antialias=self.image_size < images.shape[-1])

    def normalize_input(self, input: Tensor, student_mean: Tensor, student_std: Tensor) -> Tensor:
        """Convert the normalization. timm's version compares the values at each call, which synchronizes the GPU."""
        return input if self.images_fit else (input * student_std + student_mean - self.mean_kd) / self.std_kd
