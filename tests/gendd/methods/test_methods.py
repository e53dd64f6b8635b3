"""Losses of the methods that GenDD is compared with, against arithmetic written here."""

import math
from dataclasses import make_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gendd_cifar.models  # noqa: F401
from gendd.config import Config
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.dense import DenseTarget
from gendd.distillation.divergence import divergence
from gendd.distillation.regression_head import RegressionHead, residual_mlp
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import METHODS
from gendd.methods.base import Method, TaskContext
from gendd.methods.dist import relations
from gendd.methods.dkd import decoupled
from gendd.methods.ikl import weighted_pairwise_error
from gendd.methods.logits import LogitTask, standardized
from gendd.methods.simkd import SimKDStudent
from gendd.methods.srd import log_sum
from gendd.methods.vkd import standardized_error
from gendd.networks.cost import parameter_count
from gendd.networks.feature_map import on_grid
from gendd_cifar.family import FAMILY

B, C, T = 7, 5, 4.0


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Return teacher logits, student logits, and labels."""
    noise = torch.Generator().manual_seed(0)
    teacher_logits, student = 3 * torch.randn(2, B, C, generator=noise, dtype=torch.float64)
    return teacher_logits, student, torch.randint(C, (B,), generator=noise)


def softmax(values: list[float]) -> list[float]:
    total = sum(map(math.exp, values))
    return [math.exp(value) / total for value in values]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_divergence_by_hand(logits):
    teacher_logits, student, _ = logits
    ours = divergence(teacher_logits, student, T)
    for row in range(B):
        p, q = (softmax([value / T for value in values[row].tolist()]) for values in (teacher_logits, student))
        assert ours[row].item() == pytest.approx(T * T * kl(p, q))


def test_dkd_parts_by_hand(logits):
    teacher_logits, student, labels = logits
    tckd, nckd = decoupled(teacher_logits, student, labels, T)
    for row in range(B):
        y = labels[row].item()
        p, q = (softmax([value / T for value in values[row].tolist()]) for values in (teacher_logits, student))
        binary = kl([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        others = ([value / (1 - all_[y]) for i, value in enumerate(all_) if i != y] for all_ in (p, q))
        assert tckd[row].item() == pytest.approx(T * T * binary)
        assert nckd[row].item() == pytest.approx(T * T * kl(*others))


def test_dkd_equals_kd_if_beta_is_non_target_probability(logits):
    teacher_logits, student, labels = logits
    tckd, nckd = decoupled(teacher_logits, student, labels, T)
    target = (teacher_logits / T).softmax(-1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(tckd + (1 - target) * nckd, divergence(teacher_logits, student, T))


def test_dkd_is_finite_for_a_fully_confident_teacher():
    teacher_logits, student = torch.tensor([[400.0, 0, 0]]), torch.zeros(1, 3, requires_grad=True)
    tckd, nckd = decoupled(teacher_logits, student, torch.tensor([0]), 1.0)
    (tckd + nckd).sum().backward()
    assert tckd.isfinite().all() and nckd.isfinite().all() and student.grad.isfinite().all()


def pairwise(teacher_logits: Tensor, student: Tensor, weights: Tensor) -> Tensor:
    """Compute the paper's double sum over pairs of classes."""
    ours, theirs = (values[:, :, None] - values[:, None, :] for values in (teacher_logits, student))
    return 0.25 * (weights[:, :, None] * weights[:, None, :] * (ours - theirs) ** 2).sum((1, 2))


def test_ikl_error_equals_sum_over_pairs(logits):
    teacher_logits, student, _ = logits
    weights = (teacher_logits / T).softmax(-1)
    torch.testing.assert_close(
        weighted_pairwise_error(teacher_logits, student, weights), pairwise(teacher_logits, student, weights)
    )


def test_ikl_error_with_uniform_weights_is_pairwise_mse(logits):
    teacher_logits, student, _ = logits
    even = torch.full((B, C), 1 / C, dtype=torch.float64)
    ours, theirs = (values[:, :, None] - values[:, None, :] for values in (teacher_logits, student))
    mse = ((ours - theirs) ** 2).mean((1, 2))
    torch.testing.assert_close(weighted_pairwise_error(teacher_logits, student, even), mse / 4)


def test_ikl_error_equals_kd_to_second_order(logits):
    """For nearly equal logits, T^2 KL is half the variance of their difference under the teacher's softmax."""
    teacher_logits, apart, _ = logits
    student = teacher_logits + 1e-4 * apart
    error = weighted_pairwise_error(teacher_logits, student, (teacher_logits / T).softmax(-1))
    torch.testing.assert_close(error, divergence(teacher_logits, student, T), rtol=1e-3, atol=0)


def test_standardized_logits_by_hand():
    """For 1, 2, 3 the mean is 2 and the deviation (n - 1) is 1."""
    expected = torch.tensor([[-1.0, 0, 1], [1, 0, -1]])
    torch.testing.assert_close(standardized(torch.tensor([[1.0, 2, 3], [70, 50, 30]])), expected)


def test_dist_relations_by_hand(logits):
    teacher_logits, student, _ = logits
    inter, intra = relations(teacher_logits, student, T)
    p, q = (
        np.array([softmax([value / T for value in row]) for row in values.tolist()])
        for values in (teacher_logits, student)
    )
    by_image = [1 - np.corrcoef(p[row], q[row])[0, 1] for row in range(B)]
    by_class = [1 - np.corrcoef(p[:, column], q[:, column])[0, 1] for column in range(C)]
    assert inter.item() == pytest.approx(T * T * np.mean(by_image))
    assert intra.item() == pytest.approx(T * T * np.mean(by_class))


def test_dist_compares_rankings_not_values():
    teacher_logits = torch.tensor([[0.0, 0], [math.log(3), 0]])
    inter, intra = relations(teacher_logits, 1e-3 * teacher_logits[:, [0, 1]], 1.0)
    # Over two images, two increasing columns correlate fully. Two equal classes do not correlate.
    assert intra.item() == pytest.approx(0, abs=1e-5)
    assert inter.item() == pytest.approx(0.5, abs=1e-5)


def test_srd_log_sum_by_hand():
    """One dimension and two images normalize to -1 and 1, or to 1 and -1."""
    rising, falling = torch.tensor([[0.0], [2000]]), torch.tensor([[5000.0], [3000]])
    assert log_sum(rising, falling).item() == pytest.approx(math.log(2 * 2**4), rel=1e-5)
    three = torch.tensor([[0.0], [0], [3000]])  # mean 1000, deviation 1000 sqrt 2
    other = torch.tensor([[3000.0], [0], [0]])
    assert log_sum(three, other).item() == pytest.approx(math.log(2 * (3 / math.sqrt(2)) ** 4), rel=1e-5)


def test_vkd_error_by_hand():
    feature = torch.tensor([[0.0, 7], [2000, 7]])  # standardized to -1 and 1; a constant column becomes 0
    assert standardized_error(torch.tensor([[0.0, 0], [0, 2]]), feature).item() == pytest.approx((1 + 0 + 1 + 4) / 4)


@pytest.mark.parametrize("teacher_width", [24, 512, 700])
def test_vkd_projector_stays_orthogonal_in_training(teacher_width):
    torch.manual_seed(0)
    student, teacher = timm.create_model("resnet10t", num_classes=C), nn.Module()
    teacher.width = teacher_width
    task = METHODS["vkd"]().build(
        TaskContext(Config(method=METHODS["vkd"]()).changed(), student, teacher, {}, torch.device("cpu"))
    )
    projector = task.trainable_module.projector
    before, optimizer = projector.weight.detach().clone(), torch.optim.SGD(projector.parameters(), 1)
    for _ in range(3):
        optimizer.zero_grad()
        task.loss(projector(torch.randn(8, 512)), torch.randn(8, teacher_width)).backward()
        optimizer.step()
    weight = projector.weight.detach()
    assert (weight - before).norm() > 1e-2 and weight.shape == (teacher_width, 512)
    narrow = weight.T @ weight if teacher_width >= 512 else weight @ weight.T
    torch.testing.assert_close(narrow, torch.eye(len(narrow)), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "loss"), [("feature", F.mse_loss), ("srd", log_sum), ("vkd", standardized_error)])
def test_projected_methods_add_their_weighted_loss(name, loss):
    torch.manual_seed(0)
    cpu, network = torch.device("cpu"), timm.create_model("cifar_resnet8", num_classes=C)
    teacher = FrozenTeacher(timm.create_model("cifar_resnet8x4", num_classes=C), network, cpu)
    config = FAMILY.config(METHODS[name](feature_weight=3.0), student="resnet8")
    task = config.method.build(TaskContext(config, network, teacher, {}, cpu)).train()
    images, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 3, 4, 0])
    losses = task(Batch(images, labels, None))
    logits, projected = task.trainable_module(images)
    hard = -logits.log_softmax(-1)[range(6), labels].mean()
    torch.testing.assert_close(losses["loss"], hard + 3 * loss(projected, teacher.features_of(images)))


class OfLogits(LogitTask):
    """A task with given logits, without networks."""

    def __init__(self, losses, warmup_epochs, teacher_logits, student):
        nn.Module.__init__(self)
        self.dense, self.losses, self.warmup_epochs = None, losses, warmup_epochs
        self.trainable_module = lambda images: student
        self.teacher = SimpleNamespace(features_and_map=lambda batch: (None, None), classify=lambda _: teacher_logits)


@pytest.mark.parametrize(
    ("warmup", "epoch", "weight"), [(0, 1, 1.0), (20, 1, 0.05), (20, 7, 0.35), (20, 20, 1.0), (20, 240, 1.0)]
)
def test_warm_up_scales_the_distillation_loss(logits, warmup, epoch, weight):
    teacher_logits, student, labels = logits
    task = OfLogits(
        lambda logits, teacher_logits, labels: (torch.tensor(2.0), torch.tensor(3.0)), warmup, teacher_logits, student
    )
    assert task(Batch(None, labels, None, epoch))["loss"].item() == pytest.approx(2 + weight * 3)


def test_losses_of_all_methods_equal_published_sums(logits):
    """Build each method's task for a real student, and feed it given logits."""
    teacher_logits, student, labels = (values.float() if values.is_floating_point() else values for values in logits)
    network = timm.create_model("resnet10t", num_classes=C)
    options = {
        "kd": {"temperature": T, "label_share": 0.1},
        "kl": {"temperature": T},
        "dkd": {"temperature": T, "alpha": 3, "beta": 12, "distill_warmup_epochs": 0},
        "dist": {"temperature": T, "beta": 12, "gamma": 5},
        "ikl": {"temperature": T, "alpha": 3, "beta": 12, "distill_warmup_epochs": 0},
    }

    def built(name, **more):
        config = FAMILY.config(METHODS[name](**options[name], **more))
        return config.method.build(TaskContext(config, network, SimpleNamespace(), {}, torch.device("cpu")))

    hard = -student.log_softmax(-1).gather(1, labels[:, None]).mean()
    p, log_q = (teacher_logits / T).softmax(-1), (student / T).log_softmax(-1)
    kd = T * T * (p * (p.log() - log_q)).sum(-1).mean()
    tckd, nckd = decoupled(teacher_logits, student, labels, T)
    expected = {
        "kd": (0.1 * hard, 0.9 * kd),
        "kl": (torch.zeros(()), kd),
        "dkd": (hard, (3 * tckd + 12 * nckd).mean()),
        "dist": (hard, 12 * relations(teacher_logits, student, T)[0] + 5 * relations(teacher_logits, student, T)[1]),
        "ikl": (hard, 3 * -(p * log_q).sum(-1).mean() + 12 * pairwise(teacher_logits, student, p).mean()),
    }
    for name, sums in expected.items():
        task = built(name)
        for ours, theirs in zip(task.losses(student, teacher_logits, labels), sums, strict=True):
            torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")
    like = [
        (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True) for values in (teacher_logits, student)
    ]
    tckd, nckd = decoupled(*like, labels, T)
    for name, loss in (("kd", 0.9 * divergence(*like, T).mean()), ("dkd", (3 * tckd + 12 * nckd).mean())):
        task_loss, kd_loss = built(name, logit_standardization=True).losses(student, teacher_logits, labels)
        torch.testing.assert_close(kd_loss, loss)
        torch.testing.assert_close(task_loss, 0.1 * hard if name == "kd" else hard)


def test_method_describes_options_of_all_types():
    """A user's method may also have names, lists and unset values."""
    options = {"layer": "last", "stages": (1, 2), "width": None, "weight": 0.50, "centered": True, "scaled": False}
    fields = [(name, object, value) for name, value in options.items()]
    own = make_dataclass("Own", fields, bases=(Method,), namespace={"name": "own"}, frozen=True)()
    assert own.describe() == "own, layer last, stages (1, 2), width None, weight 0.5, centered"


def test_regression_samples_nothing():
    assert METHODS["regression"]().sampling() == {} != METHODS["gendd"]().sampling()


def test_regression_has_head_size_and_fits_its_target():
    torch.manual_seed(0)
    drawn = parameter_count(SplitTokenHead(64, 16, token_dim=32, width=64, **PAPER))
    head = RegressionHead(64, residual_mlp(64, 16, width=64, size=drawn))
    assert parameter_count(head) == pytest.approx(drawn, rel=0.05)
    z, wanted = torch.randn(8, 16), torch.randn(8, 64)
    before = head(z, wanted)["loss"].item()
    assert before == pytest.approx(((head.sample(z)[:, 0] - wanted) ** 2).mean().item())
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        head(z, wanted)["loss"].backward()
        optimizer.step()
    generated = head.sample(z, sampler="deterministic", steps=2)
    assert generated.shape == (8, 1, 64)
    assert F.mse_loss(generated[:, 0], wanted) < 0.05 * before
    torch.testing.assert_close(head.sample(z[2:3])[0], generated[2])


def test_cosine_distance_ignores_the_norm():
    torch.manual_seed(0)
    head = RegressionHead(6, nn.Linear(4, 6), "cosine")
    z, wanted = torch.randn(8, 4), torch.randn(8, 6)
    predicted = head.sample(z)[:, 0]
    angles = [1 - a @ b / (a.norm() * b.norm()) for a, b in zip(predicted, wanted, strict=True)]
    torch.testing.assert_close(head(z, wanted)["loss"], torch.stack(angles).mean())
    torch.testing.assert_close(head(z, 3 * wanted)["loss"], head(z, wanted)["loss"])


def test_linear_predictor_trains_a_linear_map_of_the_feature():
    """Its loss is the squared error of a linear layer on the student's normalized feature."""
    torch.manual_seed(0)
    cpu, network = torch.device("cpu"), timm.create_model("cifar_resnet8", num_classes=C)
    teacher = FrozenTeacher(timm.create_model("cifar_resnet32x4", num_classes=C), network, cpu)
    config = FAMILY.config(METHODS["regression"](predictor="linear"))
    head = config.method.build(TaskContext(config, network, teacher, {}, cpu)).head
    z, wanted = torch.randn(B, 64), torch.randn(B, 256)
    expected = (z @ head.mlp.weight.T + head.mlp.bias - wanted).square().mean()
    torch.testing.assert_close(head(z, wanted)["loss"], expected)


def test_simkd_pools_projection_for_the_teacher_classifier():
    torch.manual_seed(0)
    backbone, classifier = timm.create_model("resnet10t", num_classes=C), nn.Linear(24, C)
    student = SimKDStudent(backbone, 512, classifier).eval()
    images, target = torch.randn(2, 3, 64, 64), torch.randn(2, 24)
    features = student.projector[:6](backbone.eval().forward_features(images))
    last = student.projector[-1]
    each_place = torch.einsum("bchw,oc->bohw", features, last.weight) + last.bias[:, None, None]
    feature = each_place.mean((2, 3))
    torch.testing.assert_close(student(images), classifier(feature))
    torch.testing.assert_close(student(images, target)["loss"], ((feature - target) ** 2).mean())
    student.train()(images, target)["loss"].backward()
    assert student.classifier.weight.grad is None and student.projector[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["classification", "kd", "feature", "srd", "vkd", "simkd", "pretrain"])
def test_parameters_of_an_output_are_those_that_it_uses(name):
    """A parameter counts if the output's gradient reaches it."""
    torch.manual_seed(0)
    cpu, network = torch.device("cpu"), timm.create_model("cifar_resnet8", num_classes=C)
    teacher = FrozenTeacher(timm.create_model("cifar_resnet8x4", num_classes=C), network, cpu)
    config = FAMILY.config(METHODS[name](), student="resnet8")
    task = config.method.build(TaskContext(config, network, teacher, {}, cpu)).eval().requires_grad_(True)
    ((output, count),) = task.outputs_apart(task.model())
    output.compute(torch.randn(2, 3, 32, 32), torch.Generator())["classifier"].sum().backward()
    used = [parameter for parameter in task.model().parameters() if parameter.grad is not None]
    assert count == sum(parameter.numel() for parameter in used)


@pytest.mark.parametrize("share", [0.0, 0.25])
@pytest.mark.parametrize("grid", [0, 2])
def test_kd_head_has_the_loss_of_kd_and_the_size_of_the_head(grid, share):
    """Compare with sums over the logits of both outputs, and with GenDD's head of the same width."""
    torch.manual_seed(0)
    network, teacher = (timm.create_model("cifar_resnet8", num_classes=7) for _ in range(2))
    method = METHODS["kd-head"](
        temperature=2.0, label_share=0.25, width=64, probe_gradient=share, dense_grid=grid, dense_weight=0.5
    )
    config, cpu = FAMILY.config(method, student="resnet8"), torch.device("cpu")
    frozen = FrozenTeacher(teacher, network, cpu, grid=grid)
    task = config.method.build(TaskContext(config, network, frozen, {}, cpu)).eval()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 6, 3])
    losses = task(Batch(images, labels, next(BatchPlan(0, 4).micro_batches(0))))
    head, probe = (task.outputs(task.model()).compute(images, None)[name] for name in ("head", "probe"))

    def kd(logits):
        p, q = (values.div(2).softmax(-1) for values in (frozen.logits_of(images), logits))
        return 0.25 * -logits.log_softmax(-1)[range(4), labels].mean() + 0.75 * 4 * (p * (p / q).log()).sum(-1).mean()

    of_probe = kd(probe) if share else -probe.log_softmax(-1)[range(4), labels].mean()
    dense = 0
    if grid:
        mine, theirs = (model.forward_features(images) for model in (network, teacher))
        dense = 0.5 * task.dense(mine, DenseTarget(on_grid(theirs, grid).flatten(2).mT, None))
    torch.testing.assert_close(losses["loss"], kd(head) + of_probe + dense)
    (expected,) = torch.autograd.grad(kd(head) + share * of_probe + dense, network.conv1.weight)
    losses["loss"].backward()
    torch.testing.assert_close(network.conv1.weight.grad, expected)
    assert task.model().classifier.weight.grad is None and expected.abs().max() > 0
    ours = METHODS["gendd"](width=64).build(TaskContext(config, network, frozen, {}, cpu)).head
    assert parameter_count(task.head) == pytest.approx(parameter_count(ours), rel=0.25)
