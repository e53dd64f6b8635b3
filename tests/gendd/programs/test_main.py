"""The command line of each family, with its programs."""

import contextlib
import json
import re
import runpy
import sys
from importlib.metadata import version

import pytest
from lines import refuses

import gendd
from gendd.family import FAMILIES
from gendd.programs.find_family import find_family
from gendd.programs.main import PROGRAMS, main


def family_of(arguments):
    return find_family("gendd", arguments, PROGRAMS[arguments[0]].own_flags)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_all_programs(arguments, capsys):
    main("gendd_cifar", arguments)
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m gendd_cifar PROGRAM") and all(name in printed for name in PROGRAMS)


def test_version_names_the_packages_that_matter(capsys):
    main("gendd", ["--version"])
    assert capsys.readouterr().out == f"gendd {gendd.__version__}, torch {version('torch')}, timm {version('timm')}\n"


@pytest.mark.parametrize(("typed", "shown"), [("gendd-cifar", "gendd-cifar"), ("__main__.py", "python -m gendd_cifar")])
def test_usage_and_errors_name_the_typed_command(typed, shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"/some/bin/{typed}"])
    for program in ([], ["train"], ["train", "kd"], ["knn"], ["compare"], ["ablate"], ["launch"]):
        with contextlib.suppress(SystemExit):
            main("gendd_cifar", [*program, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: {' '.join([shown, *program])} ")
    with refuses(f"; {shown} train kd --help lists the flags"):
        main("gendd_cifar", ["train", "kd", "--tempratur", "1"])


@pytest.mark.parametrize("flags", [[], ["--help"], ["gendd", "--help"]])
def test_help_without_a_family_explains_the_choice(flags, monkeypatch, capsys):
    monkeypatch.delenv("FAMILY", raising=False)
    main("gendd", ["train", *flags])
    printed = capsys.readouterr().out
    assert printed.startswith("usage: python -m gendd train [flags], where a run")
    assert re.search("python -m gendd_cifar train +small images\n", printed)
    assert "python -m gendd_imagenet train  photographs\n" in printed


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_prints_its_usage(family, program, capsys):
    with contextlib.suppress(SystemExit):
        main(family, [program, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {family} {program} ")


@pytest.mark.parametrize(
    "program, words",
    [
        ("compare", "GPUS=2"),
        ("compare", '"METHODS" "SEEDS" -- --dataset ...'),
        ("ablate", "VALUES="),
        ("launch", "PEER_TIMEOUT=600"),
    ],
)
def test_help_of_program_with_variables_explains_them(program, words, capsys):
    main("gendd_cifar", [program, "--help"])
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("family", ["gendd_cifar", "gendd_imagenet"])
def test_family_module_starts_its_programs(family, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [family, "report", "--help"])
    with contextlib.suppress(SystemExit):
        runpy.run_module(family, run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out.startswith(f"usage: python -m {family} report ")


def test_unknown_program_is_refused():
    with refuses("PROGRAM trian: no such name; nearest: train"):
        main("gendd_cifar", ["trian", "--student", "resnet8"])


@pytest.mark.parametrize("family", ["gendd_cifar", "gendd_imagenet"])
def test_run_folder_selects_its_family(family, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"family": family}))
    monkeypatch.setenv("FAMILY", "gendd_cifar" if family == "gendd_imagenet" else "gendd_imagenet")
    assert family_of(["sampling", "guidance", str(tmp_path), "--images", "9"]).name == family


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_program_with_family_flags_needs_a_family(program, tmp_path, monkeypatch):
    monkeypatch.delenv("FAMILY", raising=False)
    with refuses() as refused:
        family_of([program, str(tmp_path), "--images", "some.pth"])
    commands = f"python -m gendd_cifar {program} ... (small images) or python -m gendd_imagenet {program} ..."
    assert f"PROGRAM {program}: the family of images is unknown, as no argument is a run folder" in str(
        refused.value
    ) and commands in str(refused.value)


def test_missing_checkpoint_is_named(monkeypatch):
    monkeypatch.delenv("FAMILY", raising=False)
    with refuses("^CHECKPOINT runs/none: no such file or folder, looked for .*/runs/none; check the path$"):
        family_of(["evaluate", "runs/none", "--dataset", "digits"])


@pytest.mark.parametrize("flags", [["--resume", "RUN"], ["--resume=RUN"]])
def test_any_flag_with_a_run_selects_its_family(flags, tmp_path, monkeypatch):
    monkeypatch.delenv("FAMILY", raising=False)
    (tmp_path / "config.json").write_text('{"family": "gendd_imagenet"}')
    assert family_of(["train", *(flag.replace("RUN", str(tmp_path)) for flag in flags)]).name == "gendd_imagenet"


def test_config_file_selects_its_family(tmp_path, monkeypatch):
    monkeypatch.delenv("FAMILY", raising=False)
    (tmp_path / "recipe.json").write_text('{"family": "gendd_imagenet"}')
    assert family_of(["train", "--config", str(tmp_path / "recipe.json")]).name == "gendd_imagenet"


@pytest.mark.parametrize("program", [name for name, program in PROGRAMS.items() if not program.own_flags])
def test_usage_names_the_typed_module(program, monkeypatch, capsys):
    monkeypatch.delenv("FAMILY", raising=False)
    with contextlib.suppress(SystemExit):
        main("gendd", [program, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m gendd {program} ")


def test_environment_selects_family_without_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("FAMILY", "gendd_imagenet")
    assert family_of(["evaluate", str(tmp_path / "some.pth")]).name == "gendd_imagenet"
    monkeypatch.setenv("FAMILY", "imagenet")
    with refuses("FAMILY imagenet: no such family; known: gendd_cifar, gendd_imagenet"):
        family_of(["evaluate"])


def test_run_of_unknown_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"dataset": "digits"}')
    with refuses("its configuration does not name a family"):
        family_of(["evaluate", str(tmp_path)])


@pytest.mark.parametrize("program", ["knn", "probe", "zero-shot", "sampling", "equal-cost", "publish", "report"])
def test_missing_run_is_named(program):
    with refuses("RUN is missing: [^\n]*$"):
        main("gendd_cifar", [program])
