"""Groups of runs: their order, the settings that a report names, and their labels in pictures."""

from pathlib import Path

import pytest
from run_folders import write_contents, write_run

from gendd.reporting.finished import finished_runs
from gendd.reporting.groups import Group, grouped


def groups_of(folder: Path, *runs: tuple[str, dict]) -> list[Group]:
    """Write runs of these methods and settings, and return their groups."""
    paths = [
        write_run(folder / str(number), method, {"head": (70.0, 90.0)}, **settings)
        for number, (method, settings) in enumerate(runs)
    ]
    return grouped(finished_runs([str(path) for path in paths])[0])


def test_groups_are_in_order_of_method_length_and_settings(tmp_path):
    rates = [("kd", {"lr": lr, "temperature": t}) for lr in (0.16, 0.02, 0.1) for t in (4.0, 2.0)]
    groups = groups_of(tmp_path, ("gendd", {}), ("kd", {"lr": 0.01, "epochs": 9}), *rates)
    settings = [group.first.settings for group in groups]
    assert [(each["name"], each["lr"], each.get("temperature")) for each in settings] == [
        *[("kd", lr, t) for t in (2.0, 4.0) for lr in (0.02, 0.1, 0.16)],
        ("kd", 0.01, 4.0),
        ("gendd", 1e-3, None),
    ]


def test_setting_that_differs_between_methods_is_named(tmp_path):
    groups = groups_of(tmp_path, ("kd", {"lr": 8e-2}), ("gendd", {"lr": 2e-2}), ("classification", {"lr": 8e-2}))
    assert [(group.first.name, group.differing) for group in groups] == [
        ("classification", "lr 0.08"),
        ("kd", "lr 0.08"),
        ("gendd", "lr 0.02"),
    ]
    assert [group.label for group in groups] == ["classification", "kd", "gendd"]


@pytest.mark.parametrize(("beta", "told"), [(2.0, ["", ""]), (3.0, ["beta 8", "beta 3"])])
def test_defaults_of_two_methods_are_not_named(tmp_path, beta, told):
    groups = groups_of(tmp_path, ("dkd", {}), ("dist", {"beta": beta}))
    assert [group.differing for group in groups] == told


def test_options_of_an_absent_dense_term_are_not_named(tmp_path):
    dense = {"dense_grid": 4, "dense_draws": 2}
    groups = groups_of(tmp_path, ("gendd", {}), ("gendd", dense), ("gendd", {"dense_grid": 4}))
    assert [group.differing for group in groups] == [
        "dense grid 0",
        "dense grid 4, dense draws 0",
        "dense grid 4, dense draws 2",
    ]
    assert [group.label for group in groups] == [f"gendd ({group.differing})" for group in groups]


def test_labels_have_the_fewest_settings_that_tell_apart(tmp_path):
    runs = [{"lr": 0.1, "optimizer": "sgd", "momentum": 0.8}, {}, {"epochs": 9}]
    labels = [group.label for group in groups_of(tmp_path, *(("kd", settings) for settings in runs))]
    assert labels == [
        "kd (epochs 3, optimizer adamw)",
        "kd (epochs 3, optimizer sgd)",
        "kd (epochs 9, optimizer adamw)",
    ]


def test_settings_of_runs_of_other_teachers_are_not_compared(tmp_path):
    runs = [("kd", {"teacher": teacher, "lr": lr}) for teacher, lr in (("resnet56", 0.1), ("resnet110", 0.2))]
    assert [group.differing for group in groups_of(tmp_path, *runs)] == ["", ""]


@pytest.mark.parametrize(
    ("contents", "means"),
    [
        ((None, "ab", "ab"), [("", [0, 1, 2])]),
        (("ab", "cd", "ab"), [("training contents ab", [0, 2]), ("training contents cd", [1])]),
    ],
)
def test_seeds_of_other_data_have_no_common_mean(contents, means, tmp_path):
    runs = [write_run(tmp_path / str(seed), "kd", {"classifier": (70.0, 90.0)}, seed=seed) for seed in range(3)]
    for run, content in zip(runs, contents, strict=True):
        write_contents(run, content)
    groups = grouped(finished_runs([str(run) for run in runs])[0])
    assert [(group.differing, [run.seed for run in group.runs]) for group in groups] == means


@pytest.mark.parametrize(
    ("what", "told"),
    [("evaluation files", ["evaluation files ab", "evaluation files cd"]), ("training files", ["", ""])],
)
def test_methods_evaluated_on_other_images_say_so(what, told, tmp_path):
    runs = [write_run(tmp_path / name, name, {"classifier": (70.0, 90.0)}) for name in ("kd", "dkd")]
    for run, checksum in zip(runs, ("ab", "cd"), strict=True):
        write_contents(run, checksum, what)
    assert [group.differing for group in grouped(finished_runs([str(run) for run in runs])[0])] == told
