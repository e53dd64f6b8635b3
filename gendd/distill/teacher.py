"""The frozen teacher of every method: it hides whether its features are computed or read from a cache, at which size
and in which normalization it sees the images."""

from typing import Protocol

import torch
import torch.nn.functional as F
from timm.task import DistillationTeacher
from torch import Tensor, nn

from gendd.core.distributed import autocast
from gendd.data.batch import Batch
from gendd.distill.teacher_feature import Kind, take
from gendd.networks.create import LoadedNetwork, feature_width

# Layers whose weights autocast casts at each call. Subclasses may compute with their weights before that.
CAST_BY_AUTOCAST = (nn.Linear, nn.Conv2d)


class Features(Protocol):
    def features(self, batch: Batch) -> Tensor:
        """The teacher's features (B, D_t) of a batch, in any precision, on any device."""


class FrozenTeacher(DistillationTeacher):
    """timm's teacher, on the device, channels last, in a precision of its own.

    In bf16 the weights of linear and convolution layers are stored as autocast would cast them at each call: the
    same arithmetic, half the memory. The classifier keeps float32, its rows being GenDD's class centers.

    Args:
        network: changed in place.
        student: its normalization is the one that images come in.
        precision: "bf16" or "fp32", whatever the caller's.
        chunk: images that the network takes at once; 0 for as many as come.
        kind: of feature (`gendd.distill.teacher_feature`).
        width: D_t, of features that are not pooled.
        image_size: side of the images that the network sees; None: that in which they come.
        has_classifier: whether its last layer classifies the data.

    Attributes:
        width: D_t.
        cache: what `features` reads, in place of running the network.
        loaded: the network, with words on it for the plan.
    """

    cache: Features | None = None
    loaded: LoadedNetwork

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
    ):
        if precision == "bf16":
            for module in network.modules():
                if type(module) in CAST_BY_AUTOCAST and module is not network.get_classifier():
                    module.to(torch.bfloat16)
        network.to(device, memory_format=torch.channels_last).requires_grad_(False)
        super().__init__(network, device=device)
        self.precision, self.chunk, self.kind, self.image_size = precision, chunk, kind, image_size
        self.has_classifier, self.width = has_classifier, width or feature_width(network)
        for name in ("mean", "std"):
            values = torch.tensor(student.pretrained_cfg[name], device=device).view(1, -1, 1, 1)
            self.register_buffer(f"student_{name}", values, persistent=False)
        self.images_fit = all(
            tuple(network.pretrained_cfg[name]) == tuple(student.pretrained_cfg[name]) for name in ("mean", "std")
        )

    def forward(self, input: Tensor, return_features: bool = False) -> Tensor:
        """Logits (B, C), or features (B, D_t), of images in the teacher's normalization."""
        forward = super().forward
        with autocast(self.precision, input.device):
            parts = [forward(images, return_features) for images in input.split(self.chunk or len(input))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _forward_features(self, input: Tensor) -> Tensor:
        """timm's, of the kind that is chosen."""
        return take(self.model, input, self.kind)

    @property
    def classifier(self) -> nn.Linear | None:
        """Of the data's classes, if it has one."""
        return self.model.get_classifier() if self.has_classifier else None

    def classify(self, features: Tensor) -> Tensor:
        """Return the classifier's logits (B, C) of features (B, D_t)."""
        return self.model.get_classifier()(features)

    @property
    def class_centers(self) -> Tensor:
        """Rows (C, D_t) of the classifier's weight."""
        return self.model.get_classifier().weight

    def features(self, batch: Batch) -> Tensor:
        """The features (B, D_t), float32, of a batch of training images."""
        if self.cache is None:
            return self.features_of(batch.images)
        return self.cache.features(batch).to(batch.images.device).float()

    @torch.no_grad()
    def features_of(self, images: Tensor) -> Tensor:
        """The features (B, D_t), float32, of images in the student's normalization."""
        return self(self._normalized(images), return_features=True).float()

    @torch.no_grad()
    def logits_of(self, images: Tensor) -> Tensor:
        """The logits (B, C) of images in the student's normalization."""
        return self(self._normalized(images))

    def _normalized(self, images: Tensor) -> Tensor:
        """As the network wants them, of its own size."""
        images = self.normalize_input(images, self.student_mean, self.student_std)
        if self.image_size in (None, images.shape[-1]):
            return images
        size = (self.image_size, self.image_size)
        return F.interpolate(images, size, mode="bicubic", antialias=self.image_size < images.shape[-1])

    def normalize_input(self, input: Tensor, student_mean: Tensor, student_std: Tensor) -> Tensor:
        """timm's, but for its comparison of the values at each call, which would wait for a GPU."""
        return input if self.images_fit else (input * student_std + student_mean - self.mean_kd) / self.std_kd
