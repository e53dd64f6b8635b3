"""The dense head: its loss, its draws, and the map that it generates."""

import pytest
import timm
import torch
from torch import nn

import gendd_cifar.models  # noqa: F401
from gendd.core.seeding import BatchPlan, generator
from gendd.data.batch import Batch
from gendd.diffusion.head import SplitTokenHead
from gendd.distillation.dense import DenseHead, DenseStudent, DenseTarget
from gendd.distillation.regression_head import RegressionHead, residual_mlp
from gendd.distillation.student import Student
from gendd.distillation.teacher import FrozenTeacher

GRID, CHANNELS, WIDTH = 2, 6, 8
CPU = torch.device("cpu")


def regression_head(feature_dim: int, cond_dim: int) -> RegressionHead:
    return RegressionHead(feature_dim, residual_mlp(feature_dim, cond_dim, width=16))


def regression(standardized: bool = False) -> DenseHead:
    torch.manual_seed(0)
    dense = DenseHead(regression_head(WIDTH, CHANNELS), CHANNELS, GRID, 0.3, standardized)
    dense.place.data.normal_()
    return dense


def generative() -> DenseHead:
    torch.manual_seed(0)
    head = SplitTokenHead(WIDTH, CHANNELS, token_dim=4, width=16, trunk_depth=1, repeats=3)
    dense = DenseHead(head, CHANNELS, GRID, 0.3, standardized=False)
    for parameter in dense.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return dense


class Given(nn.Module):
    """A backbone whose map is its input."""

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_loss_is_the_mean_squared_error_of_all_locations():
    dense, student_map, target = regression(), torch.randn(3, CHANNELS, 4, 4), torch.randn(3, GRID**2, WIDTH)
    expected = []
    for image in range(3):
        for row in range(GRID):
            for column in range(GRID):
                cell = student_map[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
                z = dense.norm(cell) + dense.place[:, row, column]
                expected.append((dense.head.mlp(z) - target[image, GRID * row + column]).square().mean())
    torch.testing.assert_close(dense(student_map, DenseTarget(target, None)), torch.stack(expected).mean())


def test_scale_standardizes_the_targets_and_restores_the_map():
    dense, target = regression(standardized=True), 5 + 3 * torch.randn(64, GRID**2, WIDTH)
    dense.scale.measure(target.flatten(0, 1))
    student_map = torch.randn(64, CHANNELS, GRID, GRID)
    z = dense.condition(student_map)
    standardized = (target - target.mean((0, 1))) / target.std((0, 1), correction=0)
    expected = (dense.head.mlp(z) - standardized).square().mean()
    torch.testing.assert_close(dense(student_map, DenseTarget(target, None)), expected)
    restored = dense.head.mlp(z[:1, 0]) * target.std((0, 1), correction=0) + target.mean((0, 1))
    torch.testing.assert_close(dense.generate(Given(), student_map)[:1, :, 0, 0], restored)


def test_generative_loss_of_one_process_is_the_mean_of_several():
    dense = generative()
    student_map, target = torch.randn(4, CHANNELS, GRID, GRID), torch.randn(4, GRID**2, WIDTH)

    def loss(rows: slice) -> torch.Tensor:
        draws = dense.draw(4, rows, generator(CPU, 0, "dense", 7))
        return dense(student_map[rows], DenseTarget(target[rows], draws))

    whole, parts = loss(slice(0, 4)), [loss(slice(0, 2)), loss(slice(2, 4))]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    assert parts[0] != parts[1]


def test_map_is_generated_at_the_resolution_of_the_student():
    dense = generative()
    student_map = torch.randn(2, CHANNELS, 5, 3)
    generated = dense.generate(Given(), student_map)
    assert generated.shape == (2, WIDTH, 5, 3)
    small = dense.generate(Given(), student_map[..., :GRID, :GRID])
    z = dense.norm(student_map[1, :, 0, 1]) + dense.place[:, 0, 1]
    torch.testing.assert_close(small[1, :, 0, 1], dense.head.sample(z[None])[0, 0])


def test_embedding_of_a_finer_map_lies_between_those_of_the_grid():
    """The 4 locations of a row are at -1/4, 1/4, 3/4 and 5/4 between the 2 cells; outside, the nearest counts."""
    dense, share = generative(), torch.tensor([[1, 0.75, 0.25, 0], [0, 0.25, 0.75, 1]])
    expected = torch.einsum("cij,ir,js->rsc", dense.place, share, share).flatten(0, 1)
    student_map = torch.randn(1, CHANNELS, 4, 4)
    found = dense.condition(student_map) - dense.norm(student_map.flatten(2).mT)
    torch.testing.assert_close(found[0], expected)


def test_dense_loss_adds_to_the_loss_and_trains_the_backbone():
    torch.manual_seed(0)
    backbone = timm.create_model("cifar_resnet8", num_classes=10)
    dense = DenseHead(regression_head(WIDTH, 64), 64, GRID, 0.3, standardized=False)
    student = Student(backbone, regression_head(32, 64), nn.Linear(32, 10), dense=dense).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    target, maps = torch.randn(4, 32), DenseTarget(torch.randn(4, GRID**2, WIDTH), None)
    without = student(images, target, labels)
    losses = student(images, target, labels, dense_target=maps)
    expected = dense(backbone.forward_features(images), maps)
    torch.testing.assert_close(losses["dense_loss"], expected.detach())
    torch.testing.assert_close(losses["loss"], without["loss"] + 0.3 * expected)
    (0.3 * losses["loss"] - 0.3 * without["loss"]).backward()
    assert backbone.conv1.weight.grad.abs().max() > 0 and dense.place.grad.abs().max() > 0


def test_dense_loss_reaches_the_chosen_stages_of_the_student():
    """The first stage alone: later ones do not get a gradient, and several come at the size of the largest."""
    torch.manual_seed(0)
    backbone, images = timm.create_model("test_resnet", num_classes=10).eval(), torch.randn(2, 3, 64, 64)
    one, two, three = (stage["num_chs"] for stage in backbone.feature_info[1:4])
    early = DenseHead(regression_head(WIDTH, one), one, GRID, 1, False, layers=(1,))
    _, loss = DenseStudent(backbone, early)(images, DenseTarget(torch.zeros(2, GRID**2, WIDTH), None))
    loss.backward()
    assert any(parameter.grad.any() for parameter in backbone.layer1.parameters())
    assert all(parameter.grad is None for parameter in backbone.layer2.parameters())
    several = DenseHead(regression_head(WIDTH, two + three), two + three, GRID, 1, False, layers=(2, 3))
    assert several.generate(backbone, images).shape == (2, WIDTH, 8, 8)


def test_dense_student_gives_the_backbones_logits():
    backbone = timm.create_model("cifar_resnet8", num_classes=10).eval()
    student = DenseStudent(backbone, DenseHead(regression_head(WIDTH, 64), 64, GRID, 1, False))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(student(images), backbone(images))
    logits, loss = student(images, DenseTarget(torch.zeros(2, GRID**2, WIDTH), None))
    torch.testing.assert_close(logits, backbone(images))
    assert loss > 0


def test_early_map_comes_with_the_feature_of_the_whole_network():
    """Without further options, timm's Hiera stops after the requested map."""
    torch.manual_seed(0)
    network = timm.create_model("hiera_tiny_224", num_classes=5, img_size=64, stages=(1, 1, 1, 1)).eval()
    teacher = FrozenTeacher(network, network, CPU, image_size=64, grid=GRID, layer=0)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(teacher.features_of(images), FrozenTeacher(network, network, CPU).features_of(images))
    assert teacher.map_width == 96


@pytest.mark.parametrize("layer", [None, 1])
def test_teacher_gives_feature_and_map_of_one_pass(layer):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    plain, student = FrozenTeacher(network, network, CPU, image_size=64), network
    teacher = FrozenTeacher(network, student, CPU, image_size=64, grid=GRID, layer=layer)
    images = torch.randn(2, 3, 64, 64)
    batch = Batch(images, torch.zeros(2), next(BatchPlan(0, 2).micro_batches(0)))
    feature, feature_map = teacher.features_and_map(batch)
    torch.testing.assert_close(feature, plain.features_of(images))
    torch.testing.assert_close(teacher.features(batch), feature)
    stages = network.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)
    wanted = network.forward_features(images) if layer is None else stages[layer]
    expected = nn.functional.adaptive_avg_pool2d(wanted, GRID).flatten(2).mT
    torch.testing.assert_close(feature_map, expected)
    assert teacher.map_width == wanted.shape[1] and teacher.map_side == tuple(wanted.shape[2:])
