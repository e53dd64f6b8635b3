"""`train --config FILE`: the file of a run makes the same run, and mistakes in a file are refused."""

import json

import pytest
from lines import refuses

from gendd.family import FAMILIES, family_named
from gendd.programs.configuration import configuration
from gendd.runs.folder import run_path

FLAGS = ["--student", "resnet8", "--dataset", "digits", "--milestones", "3", "4", "--warmup-epochs", "2", "--seed", "3"]


def write(file, family, config, /, **changes):
    """Write the file as a run does, with changed values: section__field=value."""
    content = {"family": family.name, **config.content()}
    for place, value in changes.items():
        section, _, name = place.partition("__")
        content = {**content, section: {**content[section], name: value} if name else value}
    file.write_text(json.dumps(content, indent=2))
    return file.read_text()


@pytest.mark.parametrize("flags", [(), ("--paper",), ("--unlabeled", "--runs", "elsewhere", "--dry-run")])
@pytest.mark.parametrize("family", [*map(family_named, FAMILIES)], ids=FAMILIES)
def test_file_of_run_gives_same_file_and_path(family, flags, tmp_path):
    first = configuration(family, ["gendd", *FLAGS, *flags])
    text = write(tmp_path / "config.json", family, first)
    for method in ([], ["gendd"]):
        again = configuration(family, [*method, "--config", str(tmp_path / "config.json")])
        assert write(tmp_path / "again.json", family, again) == text
        assert run_path(again) == run_path(first) and not again.run.dry_run


@pytest.fixture
def read(tmp_path):
    """Return a function that reads the changed file of a run, with further flags."""
    family = family_named("gendd_cifar")

    def read_changed(*flags, typed="kd", **changes):
        write(tmp_path / "config.json", family, configuration(family, ["kd", *FLAGS]), **changes)
        return configuration(family, [typed, f"--config={tmp_path / 'config.json'}", *flags])

    return read_changed


def test_flags_win_over_file(read):
    config = read("--lr", "0.5", "--seed", "7", "--milestones", "9")
    assert (config.optimizer.lr, config.run.seed, config.optimizer.milestones) == (0.5, 7, (9,))
    assert config.optimizer.warmup_epochs == 2


def test_fields_missing_in_file_have_defaults(read):
    config = read(optimizer={"lr": 0.25}, run={})
    assert (config.optimizer.lr, config.optimizer.batch_size, config.run.seed) == (0.25, 64, 0)


def test_paper_in_file_sets_the_values_that_the_file_omits(read):
    method = read(typed="gendd", method={"name": "gendd", "paper": True, "width": 48}).method
    assert (method.prediction, method.sampler, method.trunk_depth, method.width) == ("noise", "ancestral", 0, 48)


@pytest.mark.parametrize("name, value", [("resume", "runs/x"), ("dry_run", True), ("check_data", True)])
def test_command_flags_in_file_are_ignored(read, name, value):
    assert not getattr(read(**{f"run__{name}": value}).run, name)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"family": "gendd_imagenet"}, "family gendd_imagenet: the program belongs to gendd_cifar"),
        ({"method": "feature"}, 'method "feature": is not of type dict'),
        ({"method__name": "kdd"}, "kdd: no such name; nearest: "),
        ({"method__name": None}, "method.name null: is not of type str"),
        ({"optimizer__lrr": 1}, "optimizer.lrr: no such name; nearest: lr"),
        ({"method__epochs": 1}, "method.epochs: no such name"),
        ({"optimiser": {}}, "optimiser: no such name; nearest: optimizer"),
        ({"optimizer__lr": "0.1"}, 'optimizer.lr "0.1": is not of type float'),
        ({"optimizer__epochs": 2.5}, "optimizer.epochs 2.5: is not of type int"),
        ({"optimizer__epochs": True}, "optimizer.epochs true: is not of type int"),
        ({"optimizer__sync_bn": 1}, "optimizer.sync_bn 1: is not of type bool"),
        ({"optimizer__milestones": [1, "2"]}, 'optimizer.milestones [1, "2"]: is not of type tuple[int, ...]'),
        ({"optimizer__schedule": "cosin"}, 'optimizer.schedule "cosin": choose one of cosine, step'),
        ({"networks__teacher_mean": [1, 2]}, "networks.teacher_mean [1, 2]: is not of type tuple[float, float, float]"),
        ({"run__seed": None}, "run.seed null: is not of type int"),
    ],
)
def test_mistake_in_file_is_refused_with_place(read, changes, words):
    with refuses() as refused:
        read(**changes)
    message = str(refused.value)
    assert message.startswith("--config ") and "config.json: " in message and words in message
    assert len(message.splitlines()) == 1


def test_other_method_than_file_is_refused(read):
    with refuses("^METHOD dkd: --config .*config.json is for kd; leave METHOD out$"):
        read(typed="dkd")


def test_resume_with_config_is_refused(read):
    with refuses("^--config .*: --resume runs/x has a configuration; leave one out$"):
        read("--resume", "runs/x")


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "no such file"),
        ("{", "is not JSON .Expecting property name"),
        pytest.param("[" * 100_000, "is not JSON", id="deep"),
        ("[]", "is not a JSON object"),
        ("{}", "family None"),
        ("folder", "Is a directory"),
    ],
)
def test_file_without_configuration_is_refused(text, words, tmp_path):
    file = tmp_path / "config.json"
    if text == "folder":
        file.mkdir()
    elif text:
        file.write_text(text)
    with refuses(f"^--config {file}: {words}"):
        configuration(family_named("gendd_cifar"), ["--config", str(file)])
