"""The flags of several teachers: which teacher they belong to, and their way through files and commands."""

import json
import shlex
from dataclasses import dataclass, field

import pytest
from lines import refuses
from programs import cifar_config, configuration

from gendd.methods import GenDD
from gendd.network_settings import TeacherNetwork
from gendd.programs.teacher_flags import refuse_several, split_teachers
from gendd.runs.command import training_command
from gendd.runs.config_file import config_of
from gendd_cifar.family import FAMILY

SEVERAL = ["--teacher", "resnet8", "--teacher-weights", "a.pth", "--lr", "1e-2", "--teacher", "timm/test_vit",
           "--teacher-image-size=64", "--epochs", "3", "--teacher", "toy:own", "--teacher_feature", "pooled",
           "--teacher-mean", "0.1", "0.2", "0.3", "--width", "12"]  # fmt: skip


def test_flags_belong_to_the_teacher_before_them():
    config = cifar_config(*SEVERAL)
    networks = config.networks
    assert (networks.teacher, networks.teacher_weights, networks.teacher_image_size) == ("resnet8", "a.pth", None)
    assert networks.more_teachers == (
        TeacherNetwork("timm/test_vit", "timm", 64),
        TeacherNetwork("toy:own", teacher_feature="pooled", teacher_mean=(0.1, 0.2, 0.3)),
    )
    assert (config.optimizer.lr, config.optimizer.epochs, config.method.width) == (1e-2, 3, 12)


def test_flags_of_one_teacher_stay_as_they_are():
    flags = ["--teacher-weights", "a", "--teacher=x", "--teacher-weights", "b"]
    assert split_teachers(flags) == (flags, [])
    assert split_teachers(flags[:2]) == (flags[:2], None)


def test_flag_before_any_teacher_belongs_to_the_first():
    networks = cifar_config("--teacher-image-size", "64", "--teacher", "resnet8", "--teacher", "toy:own").networks
    assert (networks.teacher_image_size, networks.more_teachers[0].teacher_image_size) == (64, None)


def test_flag_given_twice_for_a_teacher_is_refused():
    words = "--teacher-weights a: given twice for the teacher y; put the flags of a teacher after its --teacher, before"
    with refuses(words):
        cifar_config("--teacher", "x", "--teacher", "y", "--teacher-weights", "a", "--teacher-weights", "b")


def test_invalid_value_of_a_further_teacher_is_refused():
    with refuses("--teacher-image-size"):
        cifar_config("--teacher", "x", "--teacher", "y", "--teacher-image-size", "large")
    config = cifar_config("--teacher", "x", "--teacher", "y", "--teacher-image-size", "0", "--student", "resnet8")
    with refuses("--teacher-image-size 0: must be at least 1|from 1 to"):
        config.check()


def test_command_repeats_the_flags_of_each_teacher():
    config = cifar_config(*SEVERAL)
    words = shlex.split(training_command(FAMILY, config))
    assert cifar_config(*words[5:]) == config


def test_command_repeats_values_that_differ_from_the_papers():
    paper = cifar_config(*SEVERAL[:4], "--paper")
    assert "--paper" in shlex.split(training_command(FAMILY, paper))
    config = paper.changed(repeats=8, guidance=3.0)
    words = shlex.split(training_command(FAMILY, config))
    assert cifar_config(*words[5:]) == config.changed(paper=False)


def test_configuration_with_several_teachers_survives_json():
    config = cifar_config(*SEVERAL)
    assert config_of({"family": FAMILY.name, **config.content()}, FAMILY) == config


def test_option_of_a_method_may_be_an_object():
    @dataclass(frozen=True)
    class Own(GenDD):
        shares: dict[str, float] = field(default_factory=dict)

    config = FAMILY.config(Own())
    content = config.content()
    content["method"]["shares"] = {"deep": 0.5}
    assert config.filled(content).method.shares == {"deep": 0.5}


def test_list_of_teachers_is_not_suggested_as_a_flag():
    with refuses("^--more-teachers: no such flag(?!.*nearest: --more-teachers)"):
        cifar_config("--more-teachers", "x")


@pytest.mark.parametrize("teacher", [{"unknown": 1}, {"teacher": 3}, "resnet8"])
def test_damaged_teacher_in_a_file_is_refused(teacher):
    content = {"family": FAMILY.name, **cifar_config(*SEVERAL).content()}
    content["networks"]["more_teachers"] = [teacher]
    with refuses("networks.more_teachers .* is not of type"):
        config_of(content, FAMILY)


def test_teachers_of_a_command_replace_those_of_a_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"family": FAMILY.name, **cifar_config(*SEVERAL).content()}))
    command = ["--config", str(file)]
    assert len(configuration(FAMILY, [*command, "--lr", "1"]).networks.more_teachers) == 2
    assert configuration(FAMILY, [*command, "--teacher", "toy:own"]).networks.teacher_names == ("toy:own",)


def test_settings_of_a_file_stay_with_its_teacher(tmp_path):
    file = tmp_path / "config.json"
    own = ("--teacher", "resnet8", "--teacher-weights", "a.pth", "--teacher-image-size", "64")
    file.write_text(json.dumps({"family": FAMILY.name, **cifar_config(*own).content()}))
    found = lambda *flags: configuration(FAMILY, ["--config", str(file), *flags]).networks  # noqa: E731
    other = found("--teacher", "resnet20", "--teacher-weights", "b.pth")
    assert (other.teacher, other.teacher_weights, other.teacher_image_size) == ("resnet20", "b.pth", None)
    assert found("--teacher", "resnet20").teacher_weights is None
    same = found("--teacher", "resnet8", "--teacher-weights", "b.pth")
    assert (same.teacher_weights, same.teacher_image_size) == ("b.pth", 64)


def test_several_teachers_are_refused_with_a_reason():
    refuse_several(["--teacher", "x"], "never")
    with refuses("--teacher y: only one"):
        refuse_several(["--teacher", "x", "--teacher", "y"], "only one")
