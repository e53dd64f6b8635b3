"""Parameter groups, and the schedules of learning rate and beta2 compared with closed forms."""

import math

import pytest
import timm
import torch
from torch import nn

import gendd_cifar.models  # noqa: F401  (registers the zoo with timm)
from gendd.config import Optimizer
from gendd.diffusion.head import PAPER, SplitTokenHead
from gendd.distillation.student import Student
from gendd.methods import pretrain
from gendd.methods.projected import ProjectedStudent
from gendd.methods.simkd import SimKDStudent
from gendd.training.optim import Schedule, create_optimizer, parameter_groups

STEPS_PER_EPOCH = 7


def config(**settings):
    return Optimizer(**settings)


def student():
    head = SplitTokenHead(feature_dim=16, cond_dim=64, token_dim=8, width=12, **PAPER | {"depth": 1})
    return Student(timm.create_model("cifar_resnet8", num_classes=5), head, nn.Linear(16, 5))


def settings_of(module, groups, key):
    """Return the setting of each trained parameter, by name."""
    values = {id(p): group[key] for group in groups for p in group["params"]}
    return {name: values[id(p)] for name, p in module.named_parameters() if p.requires_grad}


def test_norms_biases_and_head_have_no_weight_decay():
    module = student()
    groups = parameter_groups(module, config(weight_decay=0.3), module.head)
    decayed = {name for name, decay in settings_of(module, groups, "weight_decay").items() if decay == 0.3}
    undecayed = {name for name, decay in settings_of(module, groups, "weight_decay").items() if decay == 0}
    kinds = {name: type(module.get_submodule(name.rpartition(".")[0])) for name in decayed | undecayed}
    assert decayed == {
        name
        for name, kind in kinds.items()
        if kind in (nn.Conv2d, nn.Linear) and name.endswith(".weight") and not name.startswith("head.")
    }
    assert {"norm.weight", "backbone.fc.bias", "backbone.bn1.weight", "head.net.input_proj.weight"} <= undecayed


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_paper_rule_decays_everything_but_the_head(optimizer):
    whole = student()
    for module, head in ((whole, whole.head), (whole.backbone, None)):
        settings = config(optimizer=optimizer, weight_decay=0.3, decay="head-exempt")
        decays = settings_of(module, create_optimizer(module, settings, head).param_groups, "weight_decay")
        assert {name for name, decay in decays.items() if decay == 0} == {n for n in decays if n.startswith("head.")}
        assert set(decays.values()) <= {0, 0.3} and 0.3 in decays.values()


def test_each_trained_parameter_is_in_one_group():
    module = student()
    module.backbone.conv1.requires_grad_(False)
    grouped = [id(p) for group in parameter_groups(module, config(), module.head) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    frozen = ("classifier.", "backbone.conv1.")
    expected = {id(p) for name, p in module.named_parameters() if not name.startswith(frozen)}
    assert set(grouped) == expected


@pytest.mark.parametrize(("head_lr", "expected"), [(None, 0.02), (0.5, 0.5)])
def test_head_uses_its_learning_rate_or_the_common_one(head_lr, expected):
    module = student()
    rates = settings_of(module, parameter_groups(module, config(lr=0.02, head_lr=head_lr), module.head), "lr")
    assert {rate for name, rate in rates.items() if name.startswith("head.")} == {expected}
    assert {rate for name, rate in rates.items() if not name.startswith("head.")} == {0.02}


def test_network_without_a_head_has_no_empty_group():
    network = timm.create_model("cifar_resnet8", num_classes=5)
    groups = parameter_groups(network, config())
    assert all(group["params"] for group in groups)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_optimizers_use_the_configured_settings():
    sgd = create_optimizer(nn.Linear(2, 2), config(optimizer="sgd", momentum=0.7, lr=0.3, weight_decay=0.1))
    assert isinstance(sgd, torch.optim.SGD)
    assert [(g["momentum"], g["lr"], g["weight_decay"]) for g in sgd.param_groups] == [(0.7, 0.3, 0.1), (0.7, 0.3, 0)]
    adamw = create_optimizer(nn.Linear(2, 2), config(beta1=0.8, beta2_start=0.91))
    assert isinstance(adamw, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.91) for group in adamw.param_groups)


def test_muon_updates_only_hidden_weights_of_the_backbone():
    module = student()
    optimizer = create_optimizer(module, config(optimizer="muon", lr=0.02, head_lr=0.5, weight_decay=0.3), module.head)
    groups = optimizer.param_groups
    muon = {id(p) for group in groups if not group.get("use_fallback") for p in group["params"]}
    convolutions = [m for m in module.backbone.modules() if isinstance(m, nn.Conv2d)]
    assert muon == {id(convolution.weight) for convolution in convolutions}
    fallback = [p for group in groups if group.get("use_fallback") for p in group["params"]]
    trained = [p for p in module.parameters() if p.requires_grad]
    assert len(fallback) + len(muon) == len(trained)
    rates, decays = (settings_of(module, groups, key) for key in ("lr", "weight_decay"))
    assert (rates["backbone.fc.weight"], decays["backbone.fc.weight"]) == (0.02, 0.3)
    assert (rates["head.net.input_proj.weight"], decays["head.net.input_proj.weight"]) == (0.5, 0)
    assert all(group["betas"] == (0.9, 0.95) for group in groups)


def muons(module):
    """Return the names of parameters that Muon updates."""
    groups = create_optimizer(module, config(optimizer="muon")).param_groups
    return {name for name, fallback in settings_of(module, groups, "use_fallback").items() if not fallback}


def test_muon_leaves_parameters_outside_the_backbone_to_adam():
    """These are stage 1's projection, SimKD's projector and the projection of feature distillation."""
    network, classifier = timm.create_model("cifar_resnet8", num_classes=5), nn.Linear(16, 5)
    hidden = {name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    projected = pretrain.PretrainStudent(network, classifier), ProjectedStudent(network, nn.Linear(64, 16))
    for module in (*projected, SimKDStudent(network, 64, classifier)):
        assert muons(module) == {f"backbone.{name}.weight" for name in hidden}


def test_muon_leaves_tokens_and_position_embeddings_to_adam():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1)
    taken = muons(network)
    assert {"blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"} <= taken
    assert not {"pos_embed", "cls_token", "head.weight", "blocks.0.norm1.weight"} & taken


def test_muon_step_is_nearly_orthogonal():
    """Singular values of the step are nearly equal, even if the gradient's differ by powers of two."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(6, 8, 3, bias=False)
    network = nn.Sequential(convolution)
    network.get_classifier = lambda: nn.Linear(1, 1)
    before = convolution.weight.detach().clone()
    optimizer = create_optimizer(network, config(optimizer="muon", lr=0.1, weight_decay=0))
    left, right = torch.linalg.qr(torch.randn(8, 8))[0], torch.linalg.qr(torch.randn(54, 8))[0]
    convolution.weight.grad = (left @ torch.diag(2.0 ** -torch.arange(8)) @ right.T).view_as(before)
    optimizer.step()
    step = torch.linalg.svdvals((convolution.weight.detach() - before).flatten(1))
    assert step.max() / step.min() < 1.5


def schedule_of(**settings):
    module = student()
    optimizer = create_optimizer(module, config(**settings), module.head)
    return Schedule(optimizer, config(**settings), STEPS_PER_EPOCH)


def values_at(schedule, step):
    schedule.set(step)
    return [(group["lr"], group.get("betas")) for group in schedule.optimizer.param_groups]


def rates_at(schedule, step):
    """Return the learning rates of backbone and head."""
    values = values_at(schedule, step)
    return values[0][0], values[-1][0]


def cosine(step, epochs, warmup):
    epoch = step / STEPS_PER_EPOCH
    if epoch < warmup:
        return epoch / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (epoch - warmup) / (epochs - warmup))


@pytest.mark.parametrize("warmup", [0, 4, 2.5])
def test_cosine_schedule_warms_up_linearly_and_falls_to_zero(warmup):
    schedule = schedule_of(schedule="cosine", epochs=20, warmup_epochs=warmup, lr=0.4, head_lr=3.0)
    for step in range(20 * STEPS_PER_EPOCH + 1):
        factor = cosine(step, 20, warmup)
        assert rates_at(schedule, step) == pytest.approx((0.4 * factor, 3.0 * factor), rel=1e-9, abs=1e-12)


def test_cosine_of_backbone_and_head_ends_at_min_lr():
    schedule = schedule_of(schedule="cosine", epochs=20, warmup_epochs=4, lr=0.4, head_lr=3.0, min_lr=0.01)
    for step in range(4 * STEPS_PER_EPOCH, 20 * STEPS_PER_EPOCH + 1):
        factor = cosine(step, 20, 4)
        expected = tuple(0.01 + (top - 0.01) * factor for top in (0.4, 3.0))
        assert rates_at(schedule, step) == pytest.approx(expected, rel=1e-9)


def steps_down(step, warmup, milestones):
    if step < warmup * STEPS_PER_EPOCH:
        return step / (warmup * STEPS_PER_EPOCH)
    return 0.1 ** sum(step >= milestone * STEPS_PER_EPOCH for milestone in milestones)


@pytest.mark.parametrize("milestones", [(150, 180, 210), (210, 150, 180), ()])
def test_step_schedule_warms_up_and_decays_at_milestones(milestones):
    schedule = schedule_of(epochs=240, warmup_epochs=50, milestones=milestones, lr=1e-3, head_lr=4e-3)
    for step in range(240 * STEPS_PER_EPOCH):
        factor = steps_down(step, 50, milestones)
        assert rates_at(schedule, step) == pytest.approx((1e-3 * factor, 4e-3 * factor), rel=1e-9)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_beta2_rises_by_half_a_cosine_over_all_steps(optimizer):
    schedule = schedule_of(optimizer=optimizer, epochs=12, beta1=0.85, beta2_start=0.95, beta2_end=0.999)
    total = 12 * STEPS_PER_EPOCH
    for step in range(total + 1):
        expected = 0.999 - (0.999 - 0.95) * (0.5 + 0.5 * math.cos(math.pi * step / total))
        for _, betas in values_at(schedule, step):
            assert betas == pytest.approx((0.85, expected), rel=1e-12)


def test_sgd_has_no_betas():
    assert all(betas is None for _, betas in values_at(schedule_of(optimizer="sgd", epochs=5), 3))


@pytest.mark.parametrize("shape", ["cosine", "step"])
def test_schedule_is_stateless(shape):
    settings = {"schedule": shape, "epochs": 20, "warmup_epochs": 3, "milestones": (5, 10)}
    schedule = schedule_of(**settings)
    in_order = {step: values_at(schedule, step) for step in range(140)}
    for step in (139, 0, 77, 20, 21, 20, 35, 34):
        assert values_at(schedule, step) == in_order[step]
    assert values_at(schedule_of(**settings), 77) == in_order[77]


def test_restored_optimizer_continues_its_schedule():
    settings = {"schedule": "cosine", "epochs": 20, "warmup_epochs": 3}
    before = schedule_of(**settings)
    expected = [values_at(before, step) for step in (50, 51)]
    before.set(50)
    after = schedule_of(**settings)
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    assert [values_at(after, step) for step in (50, 51)] == expected
