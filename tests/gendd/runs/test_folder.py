"""Run folders: their names, and what they record."""

from pathlib import Path

import pytest
from faults import STALE, failing
from lines import refuses
from programs import cifar_config

from gendd.config import Config
from gendd.core import retry
from gendd.core.errors import PassingFault
from gendd.methods import METHODS
from gendd.runs.folder import RunFolder, data_label, run_path
from gendd_cifar.family import FAMILY


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("cifar100", "cifar100"),
        ("some/where/flowers/", "flowers"),
        ("data/cc3m/cc3m-train-{0000..0575}.tar", "cc3m"),
        ("https://example.org/sets/cc3m/{00000..00331}.tar?download=true", "cc3m"),
        ("pipe:aws s3 cp s3://bucket/cc3m/{000..331}.tar -", "cc3m"),
        ("00000.tar", "00000"),
    ],
)
def test_run_folder_names_its_data(dataset, name):
    config = Config(method=METHODS["kd"]()).changed(
        dataset=dataset, teacher="timm/resnet34", student="package.module:network", seed=2
    )
    assert run_path(config) == Path("runs", name, "resnet34_package.module.network", "kd", "2")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "cifar100"),
        ({"imbalance": 1.0, "label_fraction": 1.0, "unlabeled_dir": None}, "cifar100"),
        ({"imbalance": 0.01}, "cifar100-lt0.01"),
        ({"label_fraction": 0.1}, "cifar100-labels0.1"),
        ({"imbalance": 0.02, "label_fraction": 0.5}, "cifar100-lt0.02-labels0.5"),
        ({"unlabeled_dir": "some/where/photos/"}, "cifar100-from-photos"),
    ],
)
def test_data_label_names_the_settings_that_change_data(settings, name):
    assert data_label({"dataset": "cifar100", **settings}) == name


def test_run_folder_names_its_label_fraction():
    config = Config(method=METHODS["gendd"]()).changed(dataset="cifar100", student="resnet20", label_fraction=0.1)
    assert run_path(config) == Path("runs", "cifar100-labels0.1", "resnet20", "gendd", "0")


def test_run_file_is_read_after_a_temporary_error(tmp_path, monkeypatch):
    run, read = RunFolder(tmp_path), Path.read_text
    run.write("config.json", {"seed": 1})
    monkeypatch.setattr(retry, "PAUSES", (0,))
    monkeypatch.setattr(Path, "read_text", failing(read, [STALE]))
    assert run.read("config.json") == {"seed": 1}
    monkeypatch.setattr(Path, "read_text", failing(read, [STALE] * 2))
    with pytest.raises(PassingFault, match="config.json"):
        run.read("config.json")


def test_changed_setting_of_a_further_teacher_is_named(tmp_path):
    mean = ["--teacher", "a", "--teacher", "b", "--teacher-mean", "0.5", "0.5", "0.5"]
    run, std = RunFolder(tmp_path), [word.replace("mean", "std") for word in mean]
    run.write("config.json", {"family": FAMILY.name, **cifar_config(*mean).content()})
    run.check(cifar_config(*mean), FAMILY)
    with refuses("--teacher a; b --teacher-mean 0.5 0.5 0.5 there, a; b --teacher-std 0.5 0.5 0.5 here;"):
        run.check(cifar_config(*std), FAMILY)


def test_run_of_another_method_is_named_without_its_settings(tmp_path):
    run, other = RunFolder(tmp_path), Config(method=METHODS["kd"]())
    run.write("config.json", {"family": FAMILY.name, **cifar_config().content()})
    with refuses("holds a run of gendd, not kd; choose another --name or --seed, or delete the folder"):
        run.check(other, FAMILY)
    with refuses("not kd; choose another --pretrain-name or --seed"):
        run.check(other, FAMILY, {"name": "pretrain_name"})
    with refuses("not kd; choose another --out, or delete"):
        run.check(other.changed(out=str(tmp_path)), FAMILY)
    with refuses("use the same, choose another --out, or delete"):
        run.check(cifar_config().changed(out=str(tmp_path), epochs=7), FAMILY)
