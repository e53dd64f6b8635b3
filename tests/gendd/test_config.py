"""Command line to configuration: defaults, help, and one-line errors that name the flag."""

import dataclasses
import io
import re
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
from lines import refuses
from programs import cifar_config, imagenet_config, values_of

from gendd.config import Networks, Optimizer, Run
from gendd.methods import METHODS, GenDD
from gendd.methods.base import Method
from gendd.methods.options import SamplingOptions
from gendd.programs import equal_cost, sampling
from gendd.programs.command_line import parse
from gendd.programs.configuration import configuration
from gendd.reporting.report import ReportConfig
from gendd_cifar.config import SmallImages
from gendd_cifar.family import FAMILY as CIFAR
from gendd_imagenet import make_shards
from gendd_imagenet.config import Photographs
from gendd_imagenet.family import FAMILY as IMAGENET
from gendd_imagenet.reinforce import ReinforceConfig, reinforce

COMPLETE = ["--student", "resnet8", "--dataset", "digits"]


def parsed(*arguments, method="gendd"):
    return cifar_config(*arguments, method=method)


def refusal(function, *arguments):
    with refuses() as caught:
        function(*arguments)
    message = caught.value
    assert message and len(message.splitlines()) == 1
    return message


def test_defaults_are_the_papers_with_three_exceptions():
    recipe = {
        "dataset": "cifar100",
        "image_size": 32,
        "crop_padding": 4,
        "hflip": 0.5,
        "method": "gendd",
        "optimizer": "adamw",
        "epochs": 240,
        "batch_size": 64,
        "lr": 1e-3,
        "head_lr": None,
        "weight_decay": 5e-2,
        "beta1": 0.9,
        "beta2_start": 0.95,
        "beta2_end": 0.999,
        "schedule": "step",
        "milestones": (150, 180, 210),
        "contraction": 0.9,
        "feature_mixup": 1.0,
        "token_dim": 64,
        "width": 1024,
        "holdout": 0.0,
    }
    values = values_of(parsed())
    assert {name: values[name] for name in recipe} == recipe
    kd = cifar_config(method="kd").method
    assert (kd.temperature, kd.label_share) == (4, 0.1)


def test_wrong_value_is_refused_without_the_help_of_its_flag():
    with refuses("^--lr abc: not a number; .* train kd --help lists the flags$"):
        configuration(CIFAR, ["kd", "--lr", "abc"])
    with refuses("^--seed 1.5: not a whole number; .* train kd --help lists the flags$"):
        configuration(CIFAR, ["kd", "--seed", "1.5"])
    with refuses("argument '--log'. Expected one of .*'trackio'.; .* train kd --help lists the flags$"):
        configuration(CIFAR, ["kd", "--log", "print"])


# The paper's protocol of objective, draws and sampling, by family (from its section of experiments and its release).
PAPER = [(CIFAR, {"repeats": 30, "sampling_steps": 100}), (IMAGENET, {"repeats": 10, "sampling_steps": 64})]
EVERYWHERE = {
    "draw_scheme": "independent",
    "depth": 3,
    "trunk_depth": 0,
    "prediction": "noise",
    "noise_path": "cosine",
    "timestep_density": "uniform",
    "loss_weighting": "none",
    "condition_dropout": 0.2,
    "probe_gradient": 0.0,
    "sampler": "ancestral",
    "num_samples": 5,
    "guidance": 2.0,
}


@pytest.mark.parametrize(("family", "paper"), PAPER)
def test_paper_flag_overrides_all_protocol_flags(family, paper):
    others = ["--sampling-steps", "3", "--sampler", "deterministic", "--guidance", "1"]
    train = lambda *flags: configuration(family, ["gendd", *flags]).method  # noqa: E731
    method = train(*others, "--repeats", "7", "--probe-gradient", "0.05", "--paper")
    values, expected = dataclasses.asdict(method), {**EVERYWHERE, **paper}
    assert {name: values[name] for name in expected} == expected
    assert family.protocol(method) == "the paper's"
    method = train(*others, "--repeats", "7")
    assert (method.sampling_steps, method.sampler) == (3, "deterministic")
    assert "steps 3 (the paper: " in family.protocol(method)


def test_protocol_of_a_file_omits_training():
    published = GenDD(depth=3, trunk_depth=0, prediction="noise")
    text = CIFAR.protocol(published, of_run=False)
    assert text.startswith("network as the paper's; training unknown for a checkpoint file; sampling with sampler ")
    assert "repeats" not in text and "training with" in CIFAR.protocol(published)


def test_default_protocol_lists_differences_to_the_paper():
    text = CIFAR.protocol(GenDD())
    for name in (
        "prediction",
        "depth",
        "trunk depth",
        "repeats",
        "draw scheme",
        "sampler",
        "sampling steps",
        "num samples",
        "guidance",
    ):
        assert f"{name} " in text
    assert "noise path" not in text


def test_flags_set_their_fields():
    config = parsed(*COMPLETE, "--milestones", "3", "5", "--warmup-epochs", "0.5", "--compile", "--teacher", "vgg8")
    assert (config.networks.student, config.data.dataset, config.networks.teacher) == ("resnet8", "digits", "vgg8")
    assert (
        config.optimizer.milestones == (3, 5) and config.optimizer.warmup_epochs == 0.5 and config.run.compile is True
    )
    assert parsed("--no-compile").run.compile is False
    config.check()


def test_numbers_of_numpy_and_paths_become_plain_values():
    changed = parsed(*COMPLETE).changed(seed=np.int64(3), lr=np.float32(0.5), compile=np.bool_(True), out=Path("a"))
    changed.check()
    content = changed.content()
    assert [content["run"][name] for name in ("seed", "compile", "out")] == [3, True, "a"]
    assert content["optimizer"]["lr"] == 0.5


def test_tilde_is_expanded_in_every_path(monkeypatch):
    """A shell expands ~ at the start of a word only, not in --runs=~/x."""
    monkeypatch.setenv("HOME", "/home/me")
    config = parsed("--runs=~/x", "--student", "a:b", "--name", "x~y", "--milestones", "3")
    assert (config.run.runs, config.networks.student, config.run.name, config.optimizer.milestones) == (
        "/home/me/x",
        "a:b",
        "x~y",
        (3,),
    )
    assert parse(ReportConfig, "gendd report", ["~/a", "b", "--output=~"]) == ReportConfig(
        ("/home/me/a", "b"), "/home/me"
    )


@pytest.mark.parametrize("family", [CIFAR, IMAGENET], ids=["cifar", "imagenet"])
@pytest.mark.parametrize("method", METHODS)
def test_method_help_prints_method_and_common_options(family, method, capsys):
    with pytest.raises(SystemExit):
        configuration(family, [method, "--help"])
    text = capsys.readouterr().out
    assert "The images and their labels." in text and "type: ignore" not in text
    printed = set(re.findall(r"--([a-z0-9-]+)", text))
    for kind in METHODS.values():
        for field in dataclasses.fields(kind):
            known = any(field.name == own.name for own in dataclasses.fields(METHODS[method]))
            assert (field.name.replace("_", "-") in printed) == known, field.name
    names = {name.replace("_", "-") for name in values_of(family.config(METHODS[method]()))}
    names -= {"method", "more-teachers"}
    assert names <= printed and ("images" in printed) == (family is IMAGENET)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--repeat", "3"], ["--repeat:", "--repeats"]),
        (["--flowers", "3"], ["--flowers"]),
        (["--epochs", "many"], ["--epochs", "many"]),
        (["--epochs"], ["--epochs"]),
        (["--milestones", "150", "x"], ["x"]),
        (["--sampler", "euler"], ["--sampler", "euler", "deterministic"]),
        (["--optimizer", "lion"], ["--optimizer", "lion", "adamw"]),
        (["stray"], ["stray"]),
    ],
)
def test_mistyped_command_is_refused_in_one_line(arguments, named, capsys):
    message = refusal(parsed, *arguments)
    assert all(word in message for word in named)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_error_line_has_no_box_characters(encoding, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    message = refusal(parsed, "--flowers", "3")
    assert message == "--flowers: no such flag; python -m gendd_cifar train gendd --help lists the flags"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--lrr", "0.1", "--epochs", "3"], "--lrr: no such flag; nearest: --lr; python -m"),
        (["--teacher-wieghts=a.pth"], "--teacher-wieghts: no such flag; nearest: --teacher-weights"),
        (["--no-sync-b"], "--no-sync-b: no such flag; nearest: --no-sync-bn, --sync-bn;"),
        (["--sync-bn", "3"], "3: no flag takes this; leave it out;"),
    ],
)
def test_unknown_flag_is_refused_with_nearest_ones(typed, said):
    assert refusal(parsed, *typed).startswith(said)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--contraction", "1.1"),
        ("--contraction", "-0.1"),
        ("--condition-dropout", "1.5"),
        ("--holdout", "0.95"),
        ("--ema-decay", "1"),
        ("--momentum", "1"),
        ("--beta1", "1"),
        ("--beta2-start", "-0.5"),
        ("--beta2-end", "1"),
        ("--image-size", 30 * "9"),
        ("--crop-padding", 30 * "9"),
        ("--token-dim", "0"),
        ("--width", "0"),
        ("--depth", "0"),
        ("--repeats", "0"),
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--grad-accum-steps", "0"),
        ("--eval-every", "0"),
        ("--feature-mixup", "-1"),
        ("--weight-decay", "-0.1"),
        ("--min-lr", "-0.1"),
        ("--warmup-epochs", "-1"),
        ("--eval-images", "-1"),
        ("--seed", "-1"),
        ("--lr", "0"),
        ("--lr", "nan"),
        ("--head-lr", "0"),
        ("--student", ""),
        ("--dataset", ""),
        ("--sampling-steps", "0"),
        ("--sampling-steps", "999"),
        ("--num-samples", "2"),
        ("--sampling-start", "1"),
        ("--sampling-start", "1000"),
    ],
)
def test_value_out_of_range_is_refused_with_its_flag(flag, value):
    message = refusal(parsed(*COMPLETE, flag, value).check)
    assert flag in message and (value in message or not value)


def numbers(config_class):
    """Yield name, type and count of each field that takes numbers."""
    for name, hint in typing.get_type_hints(config_class).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        given = next((part for part in typing.get_args(hint) if typing.get_origin(part) is tuple), hint)
        inner = typing.get_args(given) or (given,)
        if inner[0] in (int, float):
            yield name, inner[0], sum(part is inner[0] for part in inner) if typing.get_origin(given) is tuple else 1


def checked(config_class, program, arguments):
    """Check the configuration as the program does at its start."""
    if config_class is sampling.SamplingProgram:
        sampling.ablate_sampling(CIFAR, ["guidance", "runs/none", *arguments])
    elif config_class is equal_cost.EqualCostConfig:
        equal_cost.equal_cost(CIFAR, ["runs/none", *arguments])
    elif config_class is make_shards.MakeShardsConfig:
        make_shards.main(["folder", "output", *arguments])
    elif config_class is ReinforceConfig:
        reinforce(IMAGENET, ["folder", "output", "--teacher", "resnet18", *arguments])
    elif issubclass(config_class, Method):
        cifar_config(*COMPLETE, *arguments, method=config_class.name).check()
    elif config_class is Photographs:
        imagenet_config(*arguments).check()
    else:
        cifar_config(*arguments).check()


PROGRAMS = {
    **{method: [] for method in METHODS.values()},
    **{part: [*COMPLETE, "--teacher", "vgg8"] for part in (Networks, SmallImages, Optimizer, Run)},
    Photographs: ["--student", "resnet18", "--teacher", "resnet34"],
    sampling.SamplingProgram: [],
    equal_cost.EqualCostConfig: [],
    make_shards.MakeShardsConfig: [],
    ReinforceConfig: [],
}
EVERY_NUMBER = [(program, *number) for program in PROGRAMS for number in numbers(program)]
# Fields that accept any number.
ANY = {"guidance"}


def test_numbers_of_all_programs_are_found():
    found = {name for _, name, *_ in EVERY_NUMBER}
    assert {"image_size", "crop_padding", "hflip", "milestones", "crop_scale", "noisy_images", "rounds"} <= found
    assert {"images_per_shard", "teacher_std", "guidance", "workers"} <= found
    assert {field.name for field in dataclasses.fields(SamplingOptions)} - {"sampler"} <= found


@pytest.mark.parametrize(
    ("program", "name", "kind", "count"), EVERY_NUMBER, ids=[f"{p.__name__}-{name}" for p, name, *_ in EVERY_NUMBER]
)
def test_every_number_of_every_program_has_a_range(program, name, kind, count):
    """No range holds a number that is not finite (`test_ranges`)."""
    flag, value = f"--{name.replace('_', '-')}", ("nan" if name in ANY else "-7.5") if kind is float else "-7"
    message = refusal(checked, program, "a.program", [*PROGRAMS[program], flag, *[value] * count])
    assert message.startswith(f"{flag} {value}"), message


@pytest.mark.parametrize(
    ("name", "values", "read"),
    [
        ("teacher_image_size", ["64"], 64),
        ("teacher_mean", ["0.5", "0.4", "0.3"], (0.5, 0.4, 0.3)),
        ("teacher_std", ["0.5", "0.4", "0.3"], (0.5, 0.4, 0.3)),
    ],
)
def test_settings_of_a_teacher_need_one(name, values, read):
    flag = f"--{name.replace('_', '-')}"
    message = refusal(parsed(*COMPLETE, flag, *values).check)
    assert message.startswith(f"{flag} {' '.join(values)}: needs a teacher; name one with --teacher")
    config = parsed(*COMPLETE, flag, *values, "--teacher", "vgg8")
    config.check()
    assert values_of(config)[name] == read


@pytest.mark.parametrize(
    ("flag", "limits"), [("--teacher-mean", "from 0 to 1"), ("--teacher-std", "above 0 and at most 1")]
)
def test_teacher_normalization_in_units_of_255_is_refused(flag, limits):
    message = refusal(parsed(*COMPLETE, "--teacher", "vgg8", flag, "123.7", "116.3", "103.5").check)
    assert message == f"{flag} 123.7 116.3 103.5: must be {limits}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--unlabeled", "--contraction", "0.5"], ["--contraction 0.5", "--unlabeled"]),
        (["--sampler", "ancestral", "--sampling-steps", "1"], ["--sampling-steps 1", "ancestral"]),
        (["--sampler", "ancestral", "--sampling-steps", "1001"], ["--sampling-steps 1001", "1000"]),
        (["--prediction", "noise"], ["--sampling-start 999", "--prediction noise", "at most 990"]),
        (["--guidance", "2"], ["--guidance 2", "--condition-dropout 0.2"]),
        (
            ["--prediction", "velocity", "--noise-path", "straight", "--sampler", "ancestral", "--sampling-steps", "9"],
            ["--sampler ancestral", "--noise-path straight"],
        ),
        (["--sampler", "ancestral", "--num-samples", "0"], ["--num-samples 0"]),
        (["--eval-weights", "ema"], ["--eval-weights ema", "--ema-decay"]),
        (["--lr", "0.1", "--min-lr", "0.2"], ["--min-lr 0.2", "--lr 0.1"]),
        (["--lr", "0.1", "--head-lr", "1e-3", "--min-lr", "0.01"], ["--min-lr 0.01", "--head-lr 0.001"]),
        (["--schedule", "step", "--min-lr", "0.01", "--lr", "0.1"], ["--min-lr 0.01", "--schedule cosine"]),
        (["--name", ".."], ["--name ..", "give a word"]),
        (["--pretrain-name", "../pretrain/0"], ["--pretrain-name ../pretrain/0", "give a word"]),
        (["--label-fraction", "0.1", "--unlabeled", "--contraction", "0"], ["--label-fraction 0.1", "--unlabeled"]),
    ],
)
def test_conflicting_flags_are_both_named(arguments, named):
    message = refusal(parsed(*COMPLETE, *arguments).check)
    assert all(word in message for word in named)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--unlabeled", "--contraction", "0"],
        ["--pretrain-epochs", "50"],
        ["--contraction", "1", "--feature-mixup", "0", "--weight-decay", "0", "--eval-images", "0", "--holdout", "0.9"],
        ["--sampler", "ancestral", "--sampling-steps", "1000", "--num-samples", "5"],
        ["--sampling-steps", "1", "--sampling-start", "999"],
        ["--sampling-steps", "1", "--sampling-start", "2"],
        ["--epochs", "1", "--warmup-epochs", "0.5"],
    ],
)
def test_values_at_limits_are_accepted(arguments):
    parsed(*COMPLETE, *arguments).check()


def test_pretraining_without_labels_is_accepted():
    parsed(*COMPLETE, "--unlabeled", method="pretrain").check()


@pytest.mark.parametrize(("given", "own"), [("head", "none"), ("both", "both"), ("student", "student")])
def test_stage_1_recomputes_no_head(given, own):
    config = parsed(*COMPLETE, "--pretrain-epochs", "1", "--grad-checkpointing", given)
    assert config.method.pretraining(config).networks.grad_checkpointing == own


def test_objective_is_part_of_the_head():
    config = parsed(*COMPLETE, "--prediction", "velocity", "--trunk-depth", "0", "--draw-scheme", "antithetic")
    head = config.method.fitting(64)
    assert (head["prediction"], head["trunk_depth"], head["draw_scheme"]) == ("velocity", 0, "antithetic")
    assert parsed(*COMPLETE).method.prediction == "feature"


def test_help_shows_the_familys_defaults_and_texts(capsys):
    with pytest.raises(SystemExit):
        imagenet_config("--help")
    printed = " ".join(capsys.readouterr().out.split())
    assert "networks options" in printed and "image's area in a random crop" in printed
    assert "Passes over the training set. (default: 100)" in printed
    config = imagenet_config("--student", "resnet18", "--lr", "0.5")
    assert (config.optimizer.epochs, config.run.eval_images, config.optimizer.lr, config.optimizer.sync_bn) == (
        100,
        5000,
        0.5,
        False,
    )


@pytest.mark.parametrize(("family", "own"), [(CIFAR, "--unlabeled"), (IMAGENET, "--images")], ids=["cifar", "imagenet"])
def test_help_of_train_starts_with_the_most_used_flags(family, own, capsys):
    with pytest.raises(SystemExit):
        configuration(family, ["kd", "--help"])
    opening = capsys.readouterr().out.partition("Most used: ")[2].partition("options")[0]
    shown = re.findall(r"--[a-z-]+", opening)
    assert len(shown) >= 10 and {"--student", "--teacher", "--dataset", "--epochs", "--dry-run", own} <= set(shown)


def test_contraction_without_labels_is_zero_unless_given():
    assert parsed(*COMPLETE, "--unlabeled").method.contraction == 0
    assert imagenet_config("--images", "photos").method.contraction == 0
    assert parsed(*COMPLETE).method.contraction == 0.9


@pytest.mark.parametrize(("epochs", "warmup"), [("20", 5), ("5", 0.5), ("2", 0.2)])
def test_warmup_as_long_as_training_is_shortened(epochs, warmup):
    config = parsed(*COMPLETE, "--warmup-epochs", "5", "--epochs", epochs)
    config.check()
    assert config.optimizer.warmup == warmup
