"""The packages' recipes and the training scripts are the same configurations."""

import pytest
from recipe_files import GENERAL, commands, recipe_files, training, trainings
from recipes import ROOT

import gendd
from gendd.programs.configuration import configuration
from gendd.runs.folder import run_path, stage1_run


def test_recipe_files_match_scripts():
    for path, text in recipe_files().items():
        assert path.read_text() == text, "make it again: python bench/recipe_files.py"


def test_each_recipe_equals_its_script_and_states_its_method():
    assert len(trainings()) > 280
    for name, started in trainings().items():
        assert gendd.recipe(name).resolved() == started.config, name
    methods = {name: started.config.method.name for name, started in trainings().items()}
    assert methods["resnet56"] == methods["imagenetlt_resnext101_teacher"] == "classification"
    assert methods["resnet56_resnet20"] == methods["resnet56_resnet20_short"] == methods["cc3m_resnet34_resnet18"]
    assert methods["resnet56_resnet20"] == "gendd" and methods["resnet56_resnet20_short_kd"] == "kd"
    assert methods["beitv2l_resnet50_a1_dkd"] == "dkd" and methods["ResNet50_MobileNetV2_ikl"] == "ikl"


@pytest.mark.parametrize(
    ("name", "paper"),
    [("resnet56_resnet20", ["--paper"]), ("resnet32x4_vgg8_kl", []), ("imagenetlt_resnext101_resnet50_kd", [])],
)
def test_flags_change_a_recipe_like_its_script(name, paper):
    started, flags = training(name), ["--seed", "3", "--lr", "0.5", "--name", "mine", *paper]
    ours = configuration(started.family, ["--recipe", name, *flags])
    script = configuration(started.family, [*started.arguments, *flags])
    assert ours.changed(recipe=None) == script and ours.optimizer.lr == 0.5
    assert run_path(ours) == run_path(script) and run_path(ours).parts[-2:] == ("mine", "3")
    assert (stage1_run(ours) and stage1_run(ours).path) == (stage1_run(script) and stage1_run(script).path)


def test_each_training_script_has_a_recipe():
    scripts = {word for _, command in commands() for word in command.split() if word.startswith("sh/")}
    assert scripts == {f"sh/{script.name}" for script in (ROOT / "sh").glob("train_*.sh")}
    assert {f"sh/{name}.sh" for name in GENERAL} <= scripts
