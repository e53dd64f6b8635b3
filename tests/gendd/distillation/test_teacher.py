"""The frozen teacher: bf16 weights with autocast's results, chunks, normalization, and the tasks that use it."""

import copy

import pytest
import timm
import torch
from lines import refuses
from programs import for_head
from timm.task import DistillationTeacher
from torch import nn

import gendd_cifar.models  # noqa: F401  (registers the zoo with timm)
import gendd_imagenet.models  # noqa: F401
from gendd.core.seeding import BatchPlan
from gendd.data.batch import Batch
from gendd.distillation.teacher import FrozenTeacher
from gendd.methods import METHODS
from gendd.networks.stand_in import StandIn
from gendd.runs.experiment import build, teacher_output
from gendd_cifar.family import FAMILY

CPU = torch.device("cpu")
BEIT = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 64}
NETWORKS = [
    ("resnet18", {}),
    ("imagenet_mobilenetv1", {}),
    ("beitv2_base_patch16_224", BEIT),
    ("convnext_atto", {"depths": (1, 1, 1, 1)}),
    # Its convolutions standardize their weights first, so these keep their precision.
    ("resnetv2_50", {"conv_layer": timm.layers.StdConv2d, "layers": (1, 1, 1, 1)}),
]


def create(name, num_classes=7, **options):
    """Create a network in which every parameter matters, including parameters that start near zero."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=num_classes, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network


def images(count=4):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(
        memory_format=torch.channels_last
    )


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_bf16_weights_give_autocasts_results(name, options):
    network = create(name, **options).to(memory_format=torch.channels_last)
    plain, teacher = DistillationTeacher(copy.deepcopy(network)), FrozenTeacher(network, network, CPU, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        feature, logits = plain(images(), return_features=True), plain(images())
    for enabled in (True, False):  # The teacher ignores the caller's precision.
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert torch.equal(teacher(images(), return_features=True), feature)
            assert torch.equal(teacher(images()), logits)
    assert feature.std() > 0.01 and not torch.equal(plain(images()), logits), "bf16 shows in the results"


@torch.no_grad()
@pytest.mark.parametrize("size", [96, 32])
def test_whole_map_has_the_teachers_size_and_normalization(size):
    """A smaller size is anti-aliased."""
    network, student = create("resnet18"), create("resnet18")
    student.pretrained_cfg = {**student.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    teacher = FrozenTeacher(network, student, CPU, image_size=size)
    (mean, std), (own_mean, own_std) = (
        [torch.tensor(one.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")] for one in (student, network)
    )
    converted = (images() * std + mean - own_mean) / own_std
    converted = nn.functional.interpolate(converted, (size, size), mode="bicubic", antialias=size < 64)
    torch.testing.assert_close(teacher.whole_map(images()), network.forward_features(converted), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_network_of_another_library_gives_feature_and_map():
    network = StandIn(width=12, map_width=6, num_classes=0)
    network.pretrained_cfg = create("resnet18").pretrained_cfg
    teacher = FrozenTeacher(network, network, CPU, width=12, has_classifier=False, grid=1)
    outputs, color = teacher.outputs_of(images()), images().mean((2, 3))
    torch.testing.assert_close(outputs[:, :12], network.feature(color))
    torch.testing.assert_close(outputs[:, 12:], network.map(color))
    torch.testing.assert_close(teacher.whole_map(images())[..., 0, 0], network.map(color))


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_classifier_and_layers_outside_autocast_stay_fp32(name, options):
    network = create(name, **options)
    before = {parameter: value.clone() for parameter, value in network.named_parameters()}
    FrozenTeacher(network, network, CPU, "bf16")
    classifier = {id(parameter) for parameter in network.get_classifier().parameters()}
    norms = {id(p) for m in network.modules() if "Norm" in type(m).__name__ for p in m.parameters()}
    for parameter, value in network.named_parameters():
        assert not value.requires_grad
        if id(value) in classifier | norms:
            assert value.dtype == torch.float32 and torch.equal(value, before[parameter])
    low = sum(p.numel() for p in network.parameters() if p.dtype == torch.bfloat16)
    assert (low / sum(p.numel() for p in network.parameters()) > 0.9) == (name != "resnetv2_50")


@torch.no_grad()
def test_fp32_teacher_ignores_the_callers_autocast():
    network = create("resnet18")
    teacher = FrozenTeacher(network, network, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        feature = teacher(images(), return_features=True)
    assert feature.dtype == torch.float32
    assert torch.equal(feature, network.forward_head(network.forward_features(images()), pre_logits=True))


@torch.no_grad()
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [1, 3, 5, 10])
def test_teacher_chunks_bound_batch_and_keep_result(precision, chunk):
    network, tolerance = create("resnet18"), {"fp32": 1e-5, "bf16": 2e-2}[precision]
    whole, chunked = (FrozenTeacher(copy.deepcopy(network), network, CPU, precision, n) for n in (0, chunk))
    taken = []
    chunked.model.conv1.register_forward_pre_hook(lambda _, inputs: taken.append(len(inputs[0])))
    for features in (True, False):
        expected = whole(images(5), features)
        torch.testing.assert_close(chunked(images(5), features), expected, rtol=tolerance, atol=tolerance)
    assert max(taken) <= chunk and sum(taken) == 2 * 5


def in_normalization(mean, std):
    network = create("cifar_resnet8")
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": mean, "std": std}
    return network


@pytest.mark.parametrize("std", [(0.2, 0.3, 0.4), (0.5, 0.5, 0.5)])
@pytest.mark.parametrize("mean", [(0.1, 0.2, 0.3), (0.5, 0.5, 0.5)])
def test_teacher_renormalizes_images_as_timm_does(mean, std, monkeypatch):
    network, student = in_normalization((0.1, 0.2, 0.3), (0.2, 0.3, 0.4)), in_normalization(mean, std)
    teacher = FrozenTeacher(network, student, CPU)
    values = [torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std)]
    expected = DistillationTeacher(network).normalize_input(images(), *values)
    monkeypatch.setattr(torch, "equal", None)
    normalized = teacher.normalize_input(images(), *values)
    torch.testing.assert_close(normalized, expected, rtol=0, atol=0)


def task_of(method, precision="fp32", **changes):
    """Build a method's task on small networks as the programs do."""
    settings = {"student": "resnet8", "teacher": "resnet8x4", "batch_size": 4}
    settings |= for_head(method, {"width": 16, "depth": 2, "repeats": 4})
    config = FAMILY.config(METHODS[method](), **settings | changes)
    return build(FAMILY, config, 7, CPU, precision=precision).task.train()


def step(task, precision="fp32"):
    """Return loss, gradients and buffers of one step."""
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = Batch(pixels, torch.arange(4), next(BatchPlan(0, 4).micro_batches(0)))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = task(batch)["loss"]
    loss.backward()
    module = task.trainable_module
    return loss.detach(), [p.grad for p in module.parameters() if p.requires_grad], list(module.buffers())


def assert_same_step(one, other):
    for tensors, others in zip(one[1:], other[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))
    assert torch.equal(one[0], other[0])


@pytest.mark.parametrize("method", ["kd", "gendd"])
def test_task_step_equals_step_with_timms_teacher(method):
    task, plain = task_of(method, "bf16"), task_of(method)
    assert isinstance(task.teacher, FrozenTeacher) and not task.teacher.model.training
    timms = DistillationTeacher(plain.teacher.model)
    plain.teacher.forward = lambda images, return_features: timms(images, return_features)
    assert_same_step(step(task, "bf16"), step(plain, "bf16"))


@pytest.mark.parametrize("method", ["kd", "gendd"])
def test_compiled_task_gives_same_loss_in_chunks(method):
    networks = {"student": "toy:network", "teacher": "toy:network", "teacher_weights": "random"}
    task, plain = task_of(method, teacher_chunk=3, **networks), task_of(method, **networks)
    task.compile(backend="eager")
    torch.testing.assert_close(step(task)[0], step(plain)[0])


@torch.no_grad()
def test_teacher_evaluation_uses_its_precision_and_chunks():
    task = task_of("gendd", "bf16", teacher_chunk=2)
    taken = []
    task.teacher.model.conv1.register_forward_pre_hook(lambda _, inputs: taken.append(len(inputs[0])))
    batch = torch.randn(4, 3, 32, 32)
    logits = teacher_output(task.teacher).compute(batch, torch.Generator())["teacher"]
    assert taken == [2, 2]
    assert torch.equal(logits, task.teacher(batch))


@pytest.mark.parametrize("parts", ["student", "head", "both"])
def test_gradient_checkpointing_changes_no_step(parts):
    plain, task = task_of("gendd"), task_of("gendd", grad_checkpointing=parts)
    assert_same_step(step(plain), step(task))
    student = task.trainable_module
    assert student.backbone.grad_checkpointing == (parts != "head")
    assert student.head.net.grad_checkpointing == (parts != "student")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "kd", "grad_checkpointing": "head"}, "--grad-checkpointing head: kd does not use a head"),
        (
            {"method": "gendd", "grad_checkpointing": "both", "student": "toy:network"},
            "--grad-checkpointing both: toy:network does not support gradient checkpointing",
        ),
    ],
)
def test_unavailable_gradient_checkpointing_is_refused(changes, words):
    with refuses(words):
        task_of(**changes)


def test_subclassed_layer_keeps_fp32_weights():
    """A subclass may compute with its weights before autocast would cast them."""

    class Scaled(nn.Linear):
        def forward(self, x):
            return nn.functional.linear(x, self.weight / self.weight.norm())

    network = create("cifar_resnet8")
    network.layer1.add_module("scaled", Scaled(4, 4))
    FrozenTeacher(network, network, CPU, "bf16")
    assert network.layer1.scaled.weight.dtype == torch.float32
