"""The part of a run's configuration about its networks (`gendd.config`)."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

import tyro

from gendd.core.errors import InvalidSetting
from gendd.core.ranges import CountOrNone, PixelCount, PositiveShare, Share, field_values
from gendd.distillation.teacher_feature import Kind
from gendd.networks.timm_names import TIMM, has_weights


@dataclass(frozen=True)
class StudentNetwork:
    """The student and its initial weights."""

    student: str = ""
    """Network to train: a short name of this family, timm/<model>, hf-hub:<owner>/<name>, local-dir:<folder>, or
    package.module:function."""
    student_weights: str | None = None
    """Initial weights: a file, a run folder, or timm for the published ones. Random if not given."""


@dataclass(frozen=True)
class TeacherNetwork:
    """A teacher, its weights, and the feature to learn from it."""

    teacher: str | None = None
    """Teacher network, named like the student. hub:<owner>/<repository>:<entry>, transformers:<id> and
    open_clip:<model>/<tag> load their weights too. Repeat the flag for several teachers: the --teacher flags between
    two names belong to the first of them."""
    teacher_weights: str | None = None
    """Teacher's weights: a file, a run folder, or timm for the published ones, the default for timm/, hf-hub: and
    local-dir: names. random: untrained weights, to try speed and memory."""
    teacher_image_size: PixelCount | None = None
    """Image size of the teacher, in pixels. If not given: the student's, or for transformers: and open_clip: names that
    of the library, and for hub: names 224."""
    teacher_feature: Kind = "auto"
    """Feature of the teacher to learn: pooled (the input of its classifier), the class token, the mean of the patches,
    or the final projection. auto is the projection for networks that timm publishes with one, such as CLIP and
    Perception Encoder, and pooled for others."""
    teacher_mean: tuple[Share, Share, Share] | None = None
    """Mean of the teacher's input images: red, green, blue from 0 to 1. The network's values if not given."""
    teacher_std: tuple[PositiveShare, PositiveShare, PositiveShare] | None = None
    """Standard deviation of the teacher's input images, with the same format and default as --teacher-mean."""

    def resolved(self) -> Self:
        """Return the teacher with its published weights, if it has some and no others are named."""
        published = self.teacher and has_weights(self.teacher) and not self.teacher_weights
        return dataclasses.replace(self, teacher_weights=TIMM) if published else self


@dataclass(frozen=True)
class Networks(TeacherNetwork, StudentNetwork):
    """The networks and their weights.

    Attributes:
        more_teachers: teachers after the first one. They never classify.
    """

    teacher_classifier: bool = True
    """Use the teacher's classifier if it has the classes of the data. With several teachers, the first one's."""
    allow_partial: bool = False
    """Accept weight files that fill only part of a network. Without a classifier in its file, a teacher does not
    classify."""
    teacher_chunk: CountOrNone = 0
    """Maximum batch size of the teacher, or 0 for the whole batch. Bounds memory; does not change the result."""
    grad_checkpointing: Literal["none", "student", "head", "both"] = "none"
    """Networks that recompute activations in the backward pass. Needs less memory and more time; does not change the
    result."""
    # The program fills it from repeated --teacher flags (`gendd.programs.teacher_flags`).
    more_teachers: Annotated[tuple[TeacherNetwork, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()

    @property
    def teacher_by(self) -> tuple[str, str | None]:
        """The setting, with its value, that determines the teacher's weights."""
        if self.teacher_weights in (None, TIMM):
            return "teacher", self.teacher
        return "teacher_weights", self.teacher_weights

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """Names of all teachers."""
        return tuple(filter(None, (self.teacher, *(one.teacher for one in self.more_teachers))))

    @property
    def more_labels(self) -> tuple[str, ...]:
        """A different short label of each further teacher: the last part of its name, with a number if it repeats."""
        short = [Path(name).name.replace(":", ".") for name in self.teacher_names]
        numbered = (f"{name}-{short[: place + 1].count(name)}" for place, name in enumerate(short))
        return tuple(name if short.count(name) == 1 else other for name, other in zip(short, numbered, strict=True))[1:]

    def resolved(self) -> Self:
        """Return the networks with the published weights of the teachers that have some."""
        return dataclasses.replace(
            super().resolved(), more_teachers=tuple(one.resolved() for one in self.more_teachers)
        )

    def check(self) -> None:
        """Raise UserError for values that do not go together."""
        if not self.student:
            raise InvalidSetting("student", None, "name the network to train")
        for name in ("teacher_image_size", "teacher_mean", "teacher_std"):
            if (value := getattr(self, name)) and not self.teacher:
                raise InvalidSetting(name, value, "needs a teacher; name one with `teacher`, or leave it out")
        if self.more_teachers and len(self.teacher_names) <= len(self.more_teachers):
            raise InvalidSetting("teacher", None, "each of several teachers needs a name; give it")
        teachers = [TeacherNetwork(**field_values(self, TeacherNetwork)), *self.more_teachers]
        for place, one in enumerate(teachers):
            if one in teachers[:place]:
                reason = "given twice with the same weights and settings, which would double its weight; leave one out"
                raise InvalidSetting("teacher", one.teacher, reason)
