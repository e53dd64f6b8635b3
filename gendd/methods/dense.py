"""Options of the dense term, which methods add to their loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gendd.core.errors import InvalidSetting, naming
from gendd.core.ranges import Amount, Count, CountOrNone, field_names
from gendd.core.seeding import StepRandom
from gendd.diffusion.head import SplitTokenHead
from gendd.diffusion.options import HeadOptions
from gendd.distillation.dense import DenseHead, DenseTarget
from gendd.distillation.regression_head import RegressionHead, residual_mlp
from gendd.methods.base import TaskContext
from gendd.networks.feature_map import features_and_map

if TYPE_CHECKING:
    from gendd.config import Config


@dataclass(frozen=True)
class DenseOptions:
    """The dense term: a small head learns the teacher's feature map, location by location."""

    dense_grid: CountOrNone = 0
    """Side of the grid of locations to which both maps are pooled, such as 4. 0 turns the dense term off."""
    dense_weight: Amount = 0.3
    """Weight of the dense loss."""
    dense_draws: CountOrNone = 0
    """Draws of timestep and noise per location in the loss of a generative dense head. 0 predicts the map with squared
    error."""
    dense_width: Count = 256
    """Width of the dense head, which has one residual block."""
    dense_layer: CountOrNone | None = None
    """Stage or block of the teacher whose map is learned, counted from 0 as in timm's `forward_intermediates`. The last
    map before pooling if not given."""
    dense_student_layers: tuple[CountOrNone, ...] = ()
    """Stages of the student whose maps predict the teacher's, such as 2 3 4 for a detector's backbone. They are resized
    to the largest. The last map before pooling if not given."""

    def check(self, config: "Config") -> None:
        """Raise InvalidSetting if an option of the dense term is given while the term is off."""
        default = type(self)()
        for name in field_names(DenseOptions):
            value = getattr(self, name)
            if not self.dense_grid and value != getattr(default, name):
                raise InvalidSetting(name, value, "does nothing without a dense term; set `dense_grid`, such as 4")

    def describe_dense(self) -> str:
        """Return the grid, weight and loss of the dense term; empty if it is off."""
        if not self.dense_grid:
            return ""
        loss = f"{self.dense_draws} draws per location" if self.dense_draws else "squared error"
        return f"{self.dense_grid}x{self.dense_grid} locations, weight {self.dense_weight:g}, {loss}"

    def check_grid(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        """Raise InvalidSetting if the grid is finer than the maps (h, w) of student and teacher."""
        finest = max(*student, *teacher)
        if self.dense_grid > finest:
            maps = f"the student's map has {_size(student)} locations, and the teacher's {_size(teacher)}"
            raise InvalidSetting("dense_grid", self.dense_grid, f"{maps}; choose at most {finest}")

    def build_dense(self, context: TaskContext) -> DenseHead | None:
        """Build the dense head for the maps of teacher and student; None if the dense term is off."""
        if not self.dense_grid:
            return None
        teacher, config = context.needed_teacher, context.config
        channels = self.student_map(config.networks.student, context.student, config.data.image_size).shape[1]
        if self.dense_draws:
            options = HeadOptions(width=self.dense_width, trunk_depth=1, repeats=self.dense_draws)
            head: nn.Module = SplitTokenHead(teacher.map_width, channels, **options.fitting(teacher.map_width))
        else:
            head = RegressionHead(teacher.map_width, residual_mlp(teacher.map_width, channels, self.dense_width))
        scaled = teacher.classifier is None or len(context.more_teachers) > 0
        return DenseHead(head, channels, self.dense_grid, self.dense_weight, scaled, self.dense_student_layers)

    def student_map(self, name: str, student: nn.Module, image_size: int) -> Tensor:
        """Return the student's map (1, D_s, h, w) of an empty image.

        Raises:
            InvalidSetting: the network does not have a map, or not these stages.
        """
        image = torch.zeros(1, 3, image_size, image_size, device=next(student.parameters()).device)
        field, value = ("dense_student_layers", "") if self.dense_student_layers else ("student", name)
        with torch.no_grad(), naming(field, value):
            return features_and_map(student.eval(), image, self.dense_student_layers)[1]


def _size(side: Sequence[int]) -> str:
    return "x".join(map(str, side))


def dense_target(
    dense: DenseHead | None,
    feature_map: Tensor | None,
    random: StepRandom,
    device: torch.device,
    purpose: str = "dense",
) -> DenseTarget | None:
    """Return the target of a micro-batch, with the teacher's map (B, L, D_m); None without a dense term."""
    if dense is None or feature_map is None:
        return None
    return DenseTarget(feature_map, dense.draw(random.batch, random.rows, random.generator(purpose, device)))
