"""`recipes` lists and prints the packages' recipes, and `train --recipe` trains one."""

import json

import pytest
from lines import refuses
from programs import train_cifar

from gendd.family import family_named
from gendd.programs.configuration import configuration
from gendd.programs.find_family import find_family
from gendd.programs.main import main

CIFAR = family_named("gendd_cifar")


@pytest.fixture
def printed(capsys):
    """Return a function that runs the recipes program and returns its lines."""

    def run(family: str, *arguments: str) -> list[str]:
        main(family, ["recipes", *arguments])
        return capsys.readouterr().out.splitlines()

    return run


def test_list_shows_pair_method_epochs_and_figure(printed):
    lines = [line.split("  ") for line in printed("gendd_cifar") + printed("gendd_imagenet")]
    rows = {name: [cell.strip() for cell in cells if cell] for name, *cells in lines}
    assert rows["resnet56_resnet20"] == ["resnet56 > resnet20", "gendd", "50 + 240"]
    assert rows["resnet56_resnet20_kd"] == ["resnet56 > resnet20", "kd", "240", "70.66"]
    assert rows["resnet20"] == ["resnet20", "classification", "240", "69.06"]
    assert rows["beitv2l_resnet50_a1"] == ["beitv2_large > resnet50", "gendd", "20 + 600", "82.28"]
    assert rows["imagenetlt_resnext101_resnet18_kd"][-1] == "44.32"


def test_list_shows_no_figure_for_a_shorter_training(printed):
    (short,) = (line for line in printed("gendd_cifar") if line.startswith("resnet56_resnet20_short_kd "))
    assert short.split() == ["resnet56_resnet20_short_kd", "resnet56", ">", "resnet20", "kd", "15"]


def test_printed_recipe_is_a_configuration_file(printed, tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text("\n".join(printed("gendd_cifar", "resnet56_resnet20")))
    assert json.loads(file.read_text())["method"]["pretrain_epochs"] == 50
    from_file = configuration(CIFAR, ["--config", str(file)])
    by_name = configuration(CIFAR, ["--recipe", "resnet56_resnet20"])
    assert from_file.content() == by_name.content()


def test_unknown_recipe_is_refused_with_the_nearest_names():
    with refuses("^--recipe resnet56_resnet02: no such name; nearest: .*resnet56_resnet20"):
        configuration(CIFAR, ["--recipe", "resnet56_resnet02"])
    with refuses("^NAME resnet56_resnet02: no such name; nearest: .*resnet56_resnet20"):
        main("gendd_cifar", ["recipes", "resnet56_resnet02"])


def test_recipe_of_other_family_is_refused():
    with refuses("^--recipe cc3m_resnet34_resnet18: no such name"):
        configuration(CIFAR, ["--recipe", "cc3m_resnet34_resnet18"])


def test_recipe_with_another_source_or_method_is_refused():
    with refuses("^--recipe resnet56_resnet20: --config x.json has a configuration; leave one out$"):
        configuration(CIFAR, ["--config", "x.json", "--recipe", "resnet56_resnet20"])
    with refuses("^METHOD kd: --recipe resnet56_resnet20 is for gendd; leave METHOD out$"):
        configuration(CIFAR, ["kd", "--recipe", "resnet56_resnet20"])


@pytest.mark.parametrize("recipe", ["resnet56_resnet20", "cc3m_resnet34_resnet18"])
def test_recipe_selects_its_family(recipe):
    expected = "gendd_imagenet" if recipe.startswith("cc3m") else "gendd_cifar"
    assert find_family("gendd", ["train", "--recipe", recipe], own_flags=True).name == expected


def test_recipe_after_an_equals_sign_selects_its_family(monkeypatch):
    monkeypatch.delenv("FAMILY", raising=False)
    assert find_family("gendd", ["train", "--recipe=resnet56_resnet20"], own_flags=True).name == "gendd_cifar"


@pytest.mark.parametrize("source", ["recipe", "config", "resume"])
@pytest.mark.parametrize("words", [[""], []])
@pytest.mark.parametrize("method", [["gendd"], []])
def test_empty_source_does_not_start_another_training(source, words, method):
    with refuses(f"^--{source}: its value is empty; name a "):
        configuration(CIFAR, [*method, f"--{source}", *words])


def test_unknown_recipe_is_refused_without_a_family():
    with refuses("^--recipe resnet56_resnet02: no such name; nearest: "):
        find_family("gendd", ["train", "--recipe", "resnet56_resnet02"], own_flags=True)


def test_typed_flags_win_over_the_recipe_in_a_training(tmp_path, capsys):
    flags = ["--dataset", "digits", "--epochs", "1", "--batch-size", "400", "--runs", str(tmp_path), "--seed", "1"]
    train_cifar(["--recipe", "resnet8", *flags])
    assert "results in " in capsys.readouterr().out
    content = json.loads((tmp_path / "digits/resnet8/classification/1/config.json").read_text())
    assert content["optimizer"] | {"epochs": 1, "batch_size": 400, "lr": 0.05} == content["optimizer"]
    assert "recipe" not in content["run"]
