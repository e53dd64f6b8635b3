"""The parts of a student for further teachers: their share of the loss, and what they generate."""

import torch
from torch import nn
from toy import ToyNetwork

from gendd.distillation.branch import Branch, BranchTarget
from gendd.distillation.dense import DenseHead, DenseTarget
from gendd.distillation.regression_head import RegressionHead
from gendd.distillation.student import Student
from gendd.distillation.targets import feature_mixup, swap_neighbors

WIDTHS = (32, 20, 12)


def head(width: int, channels: int = 64) -> RegressionHead:
    return RegressionHead(width, nn.Linear(channels, width))


def dense_head(width: int) -> DenseHead:
    return DenseHead(head(width, 4), 4, grid=2, weight=0.5, standardized=True)


def student_of(dense: bool = False) -> Student:
    torch.manual_seed(0)
    first, *others = WIDTHS
    branches = [Branch(head(width), dense_head(width + 1) if dense else None) for width in others]
    own = dense_head(first + 1) if dense else None
    return Student(ToyNetwork(5), head(first), None, dense=own, branches=branches)


IMAGES, LABELS = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(4)


def targets(dense: bool = False) -> list[BranchTarget]:
    noise = torch.Generator().manual_seed(2)
    values = [
        (torch.randn(4, width, generator=noise), torch.randn(4, 4, width + 1, generator=noise)) for width in WIDTHS
    ]
    return [BranchTarget(feature, None, DenseTarget(maps, None) if dense else None) for feature, maps in values]


def losses_of(student: Student, first: BranchTarget, *further: BranchTarget, **options) -> dict[str, torch.Tensor]:
    return student(IMAGES, first.feature, LABELS, dense_target=first.dense, further=further, **options)


def test_loss_is_the_mean_over_the_teachers():
    student, given = student_of(), targets()
    found = losses_of(student, *given)
    z = student.norm(student.backbone.forward_head(student.backbone.forward_features(IMAGES), pre_logits=True))
    heads = [student.head, *(branch.head for branch in student.branches)]
    own = [(one.mlp(z) - target.feature).square().mean() for one, target in zip(heads, given, strict=True)]
    torch.testing.assert_close(found["loss"] - found["probe_loss"], sum(own) / 3)
    torch.testing.assert_close([found[name] for name in ("mse", "head2_loss", "head3_loss")], own)


def test_dense_loss_is_the_mean_over_the_teachers():
    student, given = student_of(dense=True), targets(dense=True)
    found = losses_of(student, *given)
    student_map = student.backbone.forward_features(IMAGES)
    heads = [student.dense, *(branch.dense for branch in student.branches)]
    own = [one(student_map, target.dense) for one, target in zip(heads, given, strict=True)]
    torch.testing.assert_close(found["dense_loss"], sum(own) / 3)
    terms = (found["mse"] + found["head2_loss"] + found["head3_loss"]) / 3 + found["probe_loss"]
    torch.testing.assert_close(found["loss"], terms + 0.5 * found["dense_loss"])


def test_all_parts_of_all_teachers_get_a_gradient():
    student = student_of(dense=True)
    losses_of(student, *targets(dense=True))["loss"].backward()
    assert not [name for name, parameter in student.named_parameters() if parameter.grad is None]


def test_further_features_are_standardized_in_the_loss():
    student, (first, second, third) = student_of(), targets()
    plain = losses_of(student, first, second, third)["head2_loss"]
    student.branches[0].scale.mean.fill_(7), student.branches[0].scale.std.fill_(1000)
    scaled = second._replace(feature=1000 * second.feature + 7)
    torch.testing.assert_close(losses_of(student, first, scaled, third)["head2_loss"], plain)


def test_feature_mixup_mixes_the_features_of_all_teachers():
    student, given, share = student_of(), targets(), torch.tensor(0.3)
    found = losses_of(student, *given, mixup_share=share)
    z = student.norm(student.backbone.forward_head(student.backbone.forward_features(IMAGES), pre_logits=True))
    mixed, target = (feature_mixup(values, share, swap_neighbors(4)) for values in (z, given[1].feature))
    expected = (student.branches[0].head.mlp(mixed) - target).square().mean()
    torch.testing.assert_close(found["head2_loss"], expected)


def test_branch_generates_features_in_its_teachers_units():
    student = student_of().eval()
    branch, h = student.branches[1], torch.randn(3, 64)
    branch.measure(5 + 10 * torch.randn(100, WIDTHS[2]), None)
    expected = branch.head.mlp(student.norm(h)) * branch.scale.std + branch.scale.mean
    torch.testing.assert_close(student.generate(h, teacher=2), expected)
    assert student.generate(h).shape == (3, WIDTHS[0]) and student.sample(IMAGES, teacher=1).shape == (4, WIDTHS[1])


def test_branch_measures_features_and_all_locations_of_maps():
    branch, features = student_of(dense=True).branches[0], torch.randn(50, WIDTHS[1])
    maps = torch.randn(50, 4, WIDTHS[1] + 1) * torch.arange(1, 5)[:, None]
    branch.measure(features, maps)
    torch.testing.assert_close(branch.scale.std, features.std(0, correction=0))
    torch.testing.assert_close(branch.dense.scale.std, maps.flatten(0, 1).std(0, correction=0))


def test_student_with_one_teacher_has_no_further_tensors():
    student = Student(ToyNetwork(5), head(32), None)
    assert not [name for name in student.state_dict() if "branches" in name]
    assert "head2_loss" not in student(IMAGES, targets()[0].feature, LABELS)
