"""The student: where gradients flow, and what each output contains."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import gendd_cifar.models  # noqa: F401
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.divergence import divergence
from gendd.distillation.student import Student
from gendd.distillation.targets import FeatureScale
from gendd.networks.features import pooled_feature


def make_student(classes: int = 10, **options) -> Student:
    torch.manual_seed(0)
    backbone = timm.create_model("cifar_resnet8", num_classes=classes)
    head = SplitTokenHead(32, 64, token_dim=16, width=32, repeats=2, **PAPER)
    student = Student(backbone, head, nn.Linear(32, 10), **options)
    for parameter in student.head.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return student


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and their targets."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.randn(4, 32, generator=generator)


def forward(student: Student, **options) -> dict[str, torch.Tensor]:
    images, target = inputs()
    draws = student.head.draw(4, torch.Generator().manual_seed(2))
    return student(images, target, torch.tensor([0, 1, 2, 3]), draws=draws, **options)


def backbone_gradients(student: Student) -> list[torch.Tensor]:
    student.zero_grad()
    forward(student)["loss"].backward()
    return [p.grad.clone() for name, p in student.backbone.named_parameters() if not name.startswith("fc")]


def test_probe_loss_does_not_reach_the_backbone():
    student = make_student()
    with_probe = backbone_gradients(student)
    student.backbone.get_classifier().weight.data.zero_()
    for one, other in zip(with_probe, backbone_gradients(student), strict=True):
        torch.testing.assert_close(one, other)
    assert any(gradient.abs().max() > 0 for gradient in with_probe)


@pytest.mark.parametrize("classes", [10, 0], ids=["probe", "linear map"])
def test_a_share_of_the_gradient_reaches_the_backbone(classes):
    stopped, part, whole = (
        backbone_gradients(make_student(classes, probe_gradient=share)) for share in (0.0, 0.25, 1.0)
    )
    assert sum((one - other).abs().sum() for one, other in zip(whole, stopped, strict=True)) > 1
    for none, some, full in zip(stopped, part, whole, strict=True):
        torch.testing.assert_close(some - none, 0.25 * (full - none), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [10, 0], ids=["probe", "linear map"])
def test_probe_learns_the_target_of_each_image_unmixed(classes):
    scale = FeatureScale(32)
    scale.measure(3 + 5 * torch.randn(50, 32, generator=torch.Generator().manual_seed(3)))
    student = make_student(classes, scale=scale, probe_gradient=0.5).eval()
    losses = forward(student, mixup_share=torch.tensor(0.6))
    images, target = inputs()
    h = pooled_feature(student.backbone, images)
    if classes:
        logits = student.backbone.get_classifier()(h)
        torch.testing.assert_close(losses["output"], logits)
        expected = divergence(student.classifier(target), logits, temperature=2).mean()
    else:
        expected = F.mse_loss(student.linear(h), scale(target))
    torch.testing.assert_close(losses["probe_loss" if classes else "linear_loss"], expected.detach())


def test_linear_map_gives_features_in_the_teachers_units():
    scale = FeatureScale(32)
    scale.measure(3 + 5 * torch.randn(50, 32, generator=torch.Generator().manual_seed(3)))
    student, images = make_student(0, scale=scale).eval(), inputs()[0]
    h = pooled_feature(student.backbone, images)
    expected = (h @ student.linear.weight.T + student.linear.bias) * scale.std + scale.mean
    torch.testing.assert_close(student.outputs(images, start=800)["linear"], expected)


def test_probe_with_a_gradient_needs_a_classifier():
    backbone = timm.create_model("cifar_resnet8", num_classes=10)
    with pytest.raises(ValueError, match="needs the teacher's classifier"):
        Student(backbone, SplitTokenHead(32, 64, token_dim=16, width=32), None, probe_gradient=0.1)


def test_only_trained_parameters_get_a_gradient():
    student = make_student()
    forward(student)["loss"].backward()
    assert not [name for name, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name, p in student.named_parameters() if not p.requires_grad] == [
        "classifier.weight",
        "classifier.bias",
    ]


def test_mixup_with_share_one_changes_nothing():
    student = make_student().eval()
    plain, mixed = forward(student)["loss"], forward(student, mixup_share=torch.tensor(1.0))["loss"]
    torch.testing.assert_close(plain, mixed)
    assert forward(student, mixup_share=torch.tensor(0.6))["loss"] != plain


def test_student_predicts_from_mean_sample_and_from_probe():
    student, images = make_student().eval(), torch.randn(3, 3, 32, 32)
    settings = {"sampler": "ancestral", "steps": 4, "num_samples": 3}
    logits = student.outputs(images, torch.Generator().manual_seed(3), **settings)
    z = student.norm(pooled_feature(student.backbone, images))
    features = student.head.sample(z, generator=torch.Generator().manual_seed(3), **settings)
    mean = (features[:, 0] + features[:, 1] + features[:, 2]) / 3
    torch.testing.assert_close(logits["head"], mean @ student.classifier.weight.T + student.classifier.bias)
    torch.testing.assert_close(logits["probe"], student.backbone(images))
