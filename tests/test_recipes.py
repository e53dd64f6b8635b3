"""Every script sets the published values, and docs/results/recipes.md lists them."""

import pytest
import recipes
from published_recipes import OURS, PUBLISHED
from recipes import PAGE, SAMPLING, page, permitted, trainings

COMMANDS = [command for section, commands in PUBLISHED.items() if section != OURS for command in commands]


def of_command(command):
    return [training for members in trainings().values() for training in members if training.command == command]


@pytest.mark.parametrize("command", COMMANDS)
def test_script_sets_published_values(command):
    """Only intended differences remain, and --paper and --precision fp32 remove these."""
    for training in of_command(command):
        assert set(training.differing()) <= permitted(command)
        published = ["--paper"] if hasattr(training.config.method, "paper") else []
        assert not training.differing(*published, "--precision", "fp32")


def test_published_pairs_differ_only_in_sampling_and_precision():
    """Pairs without a published recipe also differ in their draws."""
    second = {name: of_command(f"bash sh/train_{name}_gendd.sh")[-1] for name in ("cifar100_vgg13_vgg8",
              "cifar100_resnet32x4_vgg8", "imagenet_beitv2b_resnet50_a1")}  # fmt: skip
    differing = {name: set(training.differing()) for name, training in second.items()}
    assert differing["cifar100_vgg13_vgg8"] == differing["imagenet_beitv2b_resnet50_a1"] == {*SAMPLING, "precision"}
    assert differing["cifar100_resnet32x4_vgg8"] == {*SAMPLING, "precision", "repeats", "draw_scheme"}


@pytest.mark.parametrize("command", COMMANDS)
def test_paper_recipes_exempt_only_the_head_from_decay(command):
    for training in of_command(command):
        spared = {name for name, decays in training.decays.items() if not decays}
        assert spared == {name for name in training.decays if name.startswith("head.")}
        assert bool(spared) == (training.config.method.name == "gendd")


@pytest.mark.parametrize("command", PUBLISHED[OURS])
def test_only_weight_matrices_decay_in_unpublished_recipes(command):
    for training in of_command(command):
        module = recipes.untrained_task(recipes.family_of(training.module), training.config).trainable_module
        matrices = {name for name, p in module.named_parameters() if p.requires_grad and p.dim() > 1}
        decaying = {name for name, decays in training.decays.items() if decays}
        assert decaying == {name for name in matrices if not name.startswith("head.")}


def test_recipes_page_matches_scripts():
    assert PAGE.read_text() == page(), "make it again: python bench/recipes.py"
