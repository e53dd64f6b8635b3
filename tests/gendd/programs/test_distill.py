"""Distillation from Python, with names, modules and batches."""

import copy
import itertools

import pytest
import torch
from lines import refuses
from photos import write_photos
from programs import train_imagenet
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy import ToyNetwork

import gendd
from gendd.core.errors import InvalidSetting
from gendd.programs.distill import batch_size

SMALL = {"width": 16, "depth": 1, "trunk_depth": 0, "token_dim": 8, "repeats": 2, "epochs": 2, "warmup_epochs": 0}


def plain(width: int = 24) -> nn.Module:
    """Return a network without timm's interface: a backbone with `width` features and a classifier `fc`."""
    layers = nn.Conv2d(3, width, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.ModuleDict({"backbone": nn.Sequential(*layers), "fc": nn.Linear(width, 5)})


def feature(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return module["backbone"](images)


def batches(count: int = 40, labels: bool = True) -> list:
    torch.manual_seed(0)
    images, classes = torch.randn(count, 3, 16, 16), torch.arange(count) % 5
    return [pair if labels else pair[0] for pair in zip(images.split(8), classes.split(8), strict=True)]


class TimmLike(ToyNetwork):
    def reset_classifier(self, num_classes: int) -> None:
        self.classifier = nn.Linear(64, num_classes) if num_classes else nn.Identity()


@pytest.fixture
def distill(tmp_path):
    def call(teacher=None, student=None, data=None, **options):
        torch.manual_seed(1)
        teacher = teacher or gendd.Network(plain(), feature, classifier="fc")
        student = student or gendd.Network(plain(16), feature)
        given = {"out": tmp_path / "run", "classes": 5} | SMALL | options
        return gendd.distill(teacher, student, batches() if data is None else data, **given)

    return call


@pytest.mark.parametrize(("mean", "doubts"), [(None, True), ((0.0, 0.0, 0.0), False)])
def test_batches_that_are_not_normalized_are_named(distill, capsys, mean, doubts):
    """Images in [0, 1] are right for a student whose mean is 0 and whose standard deviation is 1."""
    unit = [(images.sigmoid(), labels) for images, labels in batches()]
    student = gendd.Network(plain(16), feature, mean=mean, std=(1.0, 1.0, 1.0) if mean else None)
    distill(student=student, data=unit, epochs=1)
    printed = capsys.readouterr().out
    assert ("check their normalization\n  images " in printed) == doubts


@pytest.mark.parametrize(("name", "value"), [("epochs", "2"), ("lr", None), ("unlabeled", "no"), ("optimizer", "adam")])
def test_values_of_a_wrong_type_are_refused_before_training(distill, tmp_path, name, value):
    with pytest.raises(InvalidSetting, match=f"^`{name}` {value!r}: ") as refused:
        distill(**{name: value})
    assert refused.value.field == name and not (tmp_path / "run").exists()


def test_given_networks_learn_from_given_batches(distill):
    teacher, student = plain(), plain(16)
    before = copy.deepcopy((teacher.state_dict(), student.state_dict()))
    run = distill(gendd.Network(teacher, feature, classifier="fc"), gendd.Network(student, feature))
    assert all(torch.equal(value, before[0][name]) for name, value in teacher.state_dict().items())
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[1][name])}
    assert changed == {"backbone.0.weight", "backbone.0.bias"}  # The student's own classifier is replaced.
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(run.features(images), feature(student, images))
    assert run.outputs == ("head", "probe") and run.predict(images, "probe").shape == (3, 5)
    assert run.epoch == 2 and run.class_names == (None,) * 5
    assert run.config.method.contraction == 0.9


def test_networks_with_timms_interface_are_given_as_they_are(distill):
    run = distill(ToyNetwork(5), ToyNetwork(5), token_dim=16, classes=["a", "b", "c", "d", "e"])
    assert run.class_names == ("a", "b", "c", "d", "e")
    assert run.teacher is None or run.teacher.width == 64


def test_batches_without_labels_teach_features(distill):
    run = distill(data=batches(labels=False), classes=0)
    assert run.outputs == ("head", "linear") and run.config.method.contraction == 0
    assert run.predict(torch.randn(3, 3, 16, 16)).shape == (3, 24)


def test_same_call_returns_the_finished_run(distill):
    images = torch.randn(3, 3, 16, 16)
    first = distill().predict(images)
    torch.testing.assert_close(distill().predict(images), first, rtol=0, atol=0)


def test_evaluation_batches_are_the_ones_evaluated(distill, tmp_path):
    distill(evaluation=batches(16))
    assert '"images": 16' in (tmp_path / "run" / "result.json").read_text()


def test_load_needs_networks_that_were_given(distill, tmp_path):
    student = gendd.Network(plain(16), feature)
    run = distill(student=student)
    with refuses(r"--student .*a Python object; give it to gendd.load\(..., student=network\)"):
        gendd.load(tmp_path / "run")
    loaded = gendd.load(
        tmp_path / "run",
        student=gendd.Network(plain(16), feature),
        teacher=gendd.Network(plain(), feature, classifier="fc"),
    )
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(loaded.predict(images), run.predict(images))
    torch.testing.assert_close(loaded.predict(images.double()), loaded.predict(images))


def test_folder_trains_as_on_the_command_line(tmp_path):
    photos = write_photos(tmp_path / "photos") / "train"
    own = {"width": 16, "depth": 1, "token_dim": 8, "repeats": 4, "image_size": 64, "workers": 0}
    run = gendd.distill(
        "timm/test_resnet", "timm/test_vit", photos, 1, tmp_path / "python", teacher_weights="random", **own
    )
    flags = [text for name, value in own.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    flags += ["--teacher", "timm/test_resnet", "--teacher-weights", "random", "--student", "timm/test_vit"]
    flags += ["--images", str(photos), "--epochs", "1", "--out", str(tmp_path / "flags"), "--batch-size", "8"]
    flags += ["--crop-scale", "0.2", "1", "--optimizer", "adamw", "--lr", "2e-3", "--weight-decay", "2e-2"]
    train_imagenet(["gendd", *flags, "--schedule", "cosine", "--warmup-epochs", "5", "--feature-mixup", "0"])
    again = gendd.load(tmp_path / "flags")
    for name, value in run.backbone.state_dict().items():
        torch.testing.assert_close(again.backbone.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"teacher": (name for name in "ab")}, "teacher generator: give a network's name, a module or a gendd.Network"),
        ({"student": nn.Linear(3, 4)}, "student Linear: it lacks forward_features.*give gendd.Network"),
        (
            {"student": gendd.Network(plain(16), lambda module, images: module["backbone"][:2](images))},
            r"feature function returns a tensor \(1, 16, 7, 7\) for one image; return the pooled feature",
        ),
        (
            {"student": gendd.Network(plain(16), lambda module, images: module["backbone"](images[0, 0]))},
            "its feature function fails for an image of 16 pixels",
        ),
        (
            {"student": gendd.Network(plain(16).half(), feature)},
            r"images are float32 and its weights torch.float16; give it in float32, by `.float\(\)`",
        ),
        ({"student": gendd.Network(plain(16).to("meta"), feature)}, "student .*its weights are on the meta device"),
        (
            {"teacher": gendd.Network(plain().to("meta"), feature, classifier="fc")},
            "teacher .*its weights are on the meta device",
        ),
        ({"data": [{"image": 1}]}, "data: a batch is dict; give float images"),
        ({"data": [torch.zeros(4, 3, 8, 8, dtype=torch.uint8)]}, "a batch is torch.uint8.*give float images"),
        ({"data": [torch.zeros(4, 3, 8, 6)]}, r"images of a batch are \(8, 6\); give square images"),
        ({"data": [torch.zeros(8, 3, 16, 16)]}, "a batch has no labels"),
        (
            {"data": [(torch.zeros(8, 3, 16, 16), torch.full((8,), 7))]},
            "go from 7 to 7, but there are 5 classes",
        ),
        ({"data": [(torch.zeros(8, 3, 16, 16), torch.zeros(8))]}, "labels of a batch of 8 images are torch.float32"),
        ({"data": (pair for pair in batches())}, "--steps-per-epoch 0: the number of images in the batches is unknown"),
        ({"data": []}, "yields no batch"),
        ({"teacher_cache": "cache"}, "--teacher-cache cache: given batches have no fixed views"),
        ({"holdout": 0.1}, "--holdout 0.1: given batches cannot be split"),
        ({"batch_size": 64}, "--batch-size 64: more than the 40 training images"),
        ({"lr": -1.0}, "--lr -1"),
        ({"data": [(torch.zeros(8, 3, 16, 16), [0] * 8)]}, "labels of a batch of 8 images are a list; give a tensor"),
        (
            {"data": [*batches(16), (torch.zeros(8, 3, 20, 20), torch.zeros(8).long())], "batch_size": 8},
            "a batch has images of 20x20 pixels, the run 16x16; give one size",
        ),
        (
            {"evaluation": [(torch.zeros(8, 3, 16, 20), torch.zeros(8).long())]},
            "a batch has images of 16x20 pixels, the run 16x16",
        ),
        ({"image_size": 32}, "a batch has images of 16x16 pixels, the run 32x32"),
        ({"evaluation": []}, "evaluation: yields no batch"),
        ({"classes": {"a", "b"}}, "classes.* {'[ab]', '[ab]'}: give the number of classes, or a list of their names"),
        ({"classes": [0, 1, 2, 3, 4]}, "classes.* .0, 1, 2, 3, 4.: give the number of classes"),
        ({"method": nn.Linear}, "method <class .*Linear.*give a method's name, or package.module:Class"),
        ({"classes": None}, "classes.* None: give the number of classes"),
        ({"data": 3}, "data 3: give a folder, a name, or batches"),
        ({"data": "digits"}, "classes: belongs to batches, but --data digits is a name or a folder; leave it out"),
        ({"data": "digits", "evaluation": []}, "evaluation: belongs to batches, but --data digits is a name"),
        ({"classes": "abcde"}, "classes.* 'abcde': give the number of classes, or a list of their names"),
        ({"classes": -5}, "classes.* -5: give the number of classes"),
        ({"classes": list("abcad")}, "classes.* 'd'.: holds a name twice"),
        (
            {"teacher": gendd.Network(plain(), feature, classifier="head")},
            "--teacher ModuleDict: it does not have the submodule head; name its classifier, or None",
        ),
        (
            {"teacher": gendd.Network(plain(), feature, classifier="fc", mean=(0.5,))},
            r"its mean is \(0.5,\); give three numbers",
        ),
        (
            {"student": gendd.Network(plain(16), feature, std=(1, 1, 0))},
            r"its std is \(1, 1, 0\); give three numbers, for std above 0",
        ),
        (
            {"student": gendd.Network(plain(16).requires_grad_(False), feature)},
            "--student ModuleDict: no gradient of its feature reaches a parameter; unfreeze it",
        ),
        ({"student": gendd.Network(plain(16), torch.no_grad()(feature))}, "no gradient of its feature reaches"),
        ({"teacher": nn.Sequential(nn.Flatten())}, "--teacher Sequential: .*give gendd.Network"),
        ({"student": ToyNetwork(5).requires_grad_(False)}, "--student ToyNetwork: no gradient of its feature reaches"),
    ],
    ids=itertools.count(),
)
def test_distill_refuses_what_cannot_train(change, message, distill):
    with refuses(message):
        distill(**change)


def test_kl_without_a_classifier_names_methods_without_labels(distill):
    with refuses("kl learns from the classifier; .* from features only: gendd and regression with --contraction 0$"):
        gendd.distill(TimmLike(5), TimmLike(5), batches(labels=False), method="kl", epochs=1)


def test_iterable_of_one_pass_is_refused_when_it_ends(distill):
    with refuses("yields only one pass; give one that starts again|yields no batch"):
        distill(data=(pair for pair in batches()), steps_per_epoch=5, batch_size=8)


def test_evaluation_of_one_pass_is_refused_before_the_training(distill):
    with refuses("evaluation: yields no batch, or only one pass; give batches that start again"):
        distill(evaluation=(pair for pair in batches(16)))


def test_error_holds_field_value_and_reason(distill):
    with pytest.raises(InvalidSetting) as caught:
        distill(holdout=0.1)
    error = caught.value
    assert (error.field, error.value) == ("holdout", 0.1) and error.reason.startswith("given batches cannot be split")


def test_unknown_argument_is_a_type_error(distill):
    with pytest.raises(TypeError, match="no_such_option"):
        distill(no_such_option=1)


def test_teacher_in_bf16_is_a_copy(distill):
    """A teacher is frozen and rounded; the module that was given, and later copies, keep their precision."""
    teacher = plain()
    run = distill(gendd.Network(teacher, feature, classifier="fc"), precision="bf16")
    assert {value.dtype for value in teacher.state_dict().values()} == {torch.float32}
    assert run.predict(torch.randn(3, 3, 16, 16)).isfinite().all()


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"batch_size": 10, "drop_last": True}, 40),
        ({"batch_size": 10, "sampler": range(20)}, 20),
        ({"batch_sampler": [[0, 1, 2], [3, 4]]}, 5),
        ({"batch_size": 10}, 41),
    ],
    ids=itertools.count(),
)
def test_images_of_a_data_loader_are_those_it_yields(options, expected, distill, tmp_path):
    images = TensorDataset(torch.randn(41, 3, 16, 16), torch.arange(41) % 5)
    distill(evaluation=DataLoader(images, **options))
    assert f'"images": {expected}' in (tmp_path / "run" / "result.json").read_text()


@pytest.mark.parametrize("method", ["kd", "feature"])
def test_methods_without_a_head_need_no_options_of_the_recipe(method, tmp_path):
    teacher, student = gendd.Network(plain(), feature, classifier="fc"), gendd.Network(plain(16), feature)
    run = gendd.distill(teacher, student, batches(), 1, tmp_path, method=method, classes=5)
    assert run.outputs == ("classifier",)


def test_training_without_labels_is_evaluated_with_labels(distill, tmp_path):
    distill(unlabeled=True, evaluation=batches(16))
    assert '"top1"' in (tmp_path / "run" / "result.json").read_text()


def test_student_may_start_as_the_teacher(distill, tmp_path):
    """The student's new classifier, and its training, leave the teacher as it was."""
    network = TimmLike(7)
    with refuses("its classifier has 7 outputs, the data set 5 classes; .* --no-teacher-classifier"):
        distill(network, network, token_dim=16)
    network = TimmLike(5)
    teacher, student = copy.deepcopy(network), copy.deepcopy(network)
    together = distill(network, network, token_dim=16)
    apart = distill(teacher, student, token_dim=16, out=tmp_path / "apart")
    for name, value in together.backbone.state_dict().items():
        assert torch.equal(value, apart.backbone.state_dict()[name])


def test_data_loader_may_shuffle_and_drop_images(distill):
    images = TensorDataset(torch.randn(41, 3, 16, 16), torch.arange(41) % 5)
    run = distill(data=DataLoader(images, batch_size=10, shuffle=True), batch_size=8)
    assert run.epoch == 2


@pytest.mark.parametrize("images, expected", [(5, 8), (400, 32), (2000, 128), (2844, 128), (2845, 256), (10**6, 256)])
def test_batch_size_gives_ten_steps_per_epoch(images, expected):
    assert batch_size(images) == expected
