"""SimKD (Chen et al., 2022): the projected feature imitates the teacher's, and the teacher's classifier uses it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting
from gendd.data.batch import Batch
from gendd.methods.base import DistillationTask, Method, TaskContext
from gendd.networks.cost import parameter_count
from gendd.networks.features import frozen_copy


class SimKDStudent(nn.Module):
    """Backbone, projector and the teacher's frozen classifier.

    The projector is the paper's bottleneck of three convolutions on the backbone's feature map: 1x1, 3x3, 1x1, with
    half the teacher's width in between. The last norm and ReLU are left out, so that the output can have any sign.
    Pooling precedes the last convolution: it is 1x1 and linear, so the result is the same.

    Args:
        channels: channels of the backbone's feature map.
        classifier: the teacher's classifier, which is copied and frozen.
    """

    def __init__(self, backbone: nn.Module, channels: int, classifier: nn.Linear):
        super().__init__()
        self.backbone = backbone
        teacher_width = classifier.in_features
        middle = max(1, teacher_width // 2)
        self.projector = nn.Sequential(
            *(nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()),
            *(nn.Conv2d(middle, middle, 3, padding=1, bias=False), nn.BatchNorm2d(middle), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(middle, teacher_width)),
        )
        self.classifier = frozen_copy(classifier)
        backbone.get_classifier().requires_grad_(False)

    def forward(self, images: Tensor, target: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Return logits (B, C); with the teacher's features (B, D_t), the training loss and the logits."""
        feature = self.projector(self.backbone.forward_features(images))
        logits = self.classifier(feature)
        return logits if target is None else {"loss": F.mse_loss(feature.float(), target), "output": logits}


class SimKDTask(DistillationTask):
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.trainable_module(batch.images, self.teacher.features(batch))

    def parameters_used(self, model: SimKDStudent) -> int:
        return parameter_count(model) - parameter_count(model.backbone.get_classifier())


class SimKD(Method):
    """The projected feature map imitates the teacher's feature, and the teacher's classifier uses it."""

    name, unlabeled = "simkd", True

    def build(self, context: TaskContext) -> SimKDTask:
        config, student = context.config, context.student
        with torch.no_grad():
            side = config.data.image_size
            shape = student.eval().forward_features(torch.zeros(1, 3, side, side)).shape
        if len(shape) != 4 or getattr(student, "output_fmt", "NCHW") != "NCHW":
            raise InvalidSetting(
                "student",
                config.networks.student,
                "simkd needs a feature map, (B, C, H, W); choose a convolutional student or another method",
            )
        return SimKDTask(SimKDStudent(student, shape[1], context.needed_teacher.model.get_classifier()), context)
