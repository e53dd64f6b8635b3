"""The control of GenDD: the same student and targets, but the head predicts the feature with squared error."""

from dataclasses import dataclass

import torch
from torch import nn

from gendd.core.ranges import CountOrNone
from gendd.core.seeding import StepRandom
from gendd.diffusion.head import SplitTokenHead
from gendd.distillation.regression_head import RegressionHead
from gendd.distillation.student import Student
from gendd.methods.base import TaskContext
from gendd.methods.gendd import GenDD, GenDDTask
from gendd.methods.options import HeadOptions
from gendd.networks.cost import parameter_count
from gendd.networks.features import feature_width


class RegressionTask(GenDDTask):
    def draws(self, random: StepRandom, device: torch.device) -> None:
        """Return None: the loss does not use random numbers."""


@dataclass(frozen=True)
class Regression(GenDD):
    """The control of gendd: the head predicts the feature with squared error. It uses gendd's options of sizes."""

    dense_draws: CountOrNone = 0
    """Draws of timestep and noise per location of a generative dense head. 0 predicts the map with squared error."""

    name = "regression"

    def build(self, context: TaskContext) -> RegressionTask:
        teacher = context.needed_teacher
        head, scaled = head_of_equal_size(self, context), self.standardizes(teacher.classifier)
        student = Student(context.student, head, teacher.classifier, scaled, self.build_dense(context))
        return RegressionTask(self, student, context)

    def check_sampling(self) -> None:
        """Accept all values: nothing is sampled."""

    def describe_head(self, head: nn.Module) -> list[str]:
        return ["squared error"]


def head_of_equal_size(options: HeadOptions, context: TaskContext) -> RegressionHead:
    """Build a head that predicts the feature, with as many parameters as the generative head of these options."""
    widths = context.needed_teacher.width, feature_width(context.student)
    with torch.random.fork_rng(devices=[]):  # This head is only counted: keep the random state.
        size = parameter_count(SplitTokenHead(*widths, **options.fitting(widths[0])))
    return RegressionHead(*widths, options.width, size)
